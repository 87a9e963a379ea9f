"""Workflows of the pack, opened in the editor in every way there is."""

from __future__ import annotations

import json

import pytest

from pack import ROOT

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_whole(editor, name):
    editor.open_template(name)
    assert editor.faults() == []
    editor.look_at()
    editor.shot(f"template-{name}")


def test_workflow_files_dropped_on_the_canvas_open_whole(editor):
    for name in TEMPLATES:
        editor.page.evaluate("app.graph.clear()")
        path = ROOT / "workflows" / f"{name}.json"
        editor.drop(path.name, path.read_bytes(), "application/json")
        assert editor.nodes("NestedAttentionApply")
        assert editor.faults() == []


def test_a_workflow_with_a_node_that_is_not_there_is_seen_as_broken(editor):
    workflow = json.loads((ROOT / "workflows" / "one_subject.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        node["type"] = node["type"].replace("NestedAttentionApply", "NestedAttentionGone")
    editor.load(workflow)
    assert any("NestedAttentionGone" in fault for fault in editor.faults())
