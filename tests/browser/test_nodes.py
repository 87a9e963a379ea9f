"""The nodes as the editor presents them: help, search, folded inputs, languages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pack import ROOT

LANGUAGES = {"de": "Deutsch", "zh": "中文", "ja": "日本語"}
# Editors that drop a pack's translations when they load a language.
FORGETFUL = ((1, 32),)
NEIGHBOUR_WORDS = ("ipadapter", "face id", "reference")


def pack_nodes(server: Any) -> dict[str, Any]:
    listed = server.get("/object_info")
    return {name: node for name, node in listed.items() if name.startswith("NestedAttention")}


def plain(markdown: str) -> str:
    """A line of Markdown as it reads on a page."""
    return re.sub(r"[#*`]", "", markdown).strip()


def test_the_help_of_every_node_opens(editor):
    for kind, info in pack_nodes(editor.server).items():
        editor.page.evaluate("app.graph.clear()")
        editor.select(editor.add(kind))
        editor.page.get_by_test_id("info-button").click()
        shown = editor.page.locator(".node-help-content")
        page = ROOT / "web" / "docs" / f"{kind}.md"
        if not page.is_file():
            page = ROOT / "web" / "docs" / kind / "en.md"
        if page.is_file():
            first = next(filter(None, page.read_text(encoding="utf-8").splitlines()))
            shown.filter(has_text=plain(first)).wait_for()
        else:  # the editor makes a page of what the node says of itself
            shown.filter(has_text=info["description"]).wait_for()
        editor.shot(f"help-{kind}")
        editor.page.get_by_test_id("info-button").click()
        shown.wait_for(state="hidden")


def test_search_finds_every_node_by_its_name(editor):
    found = editor.search("nested")
    for info in pack_nodes(editor.server).values():
        found.filter(has_text=info["display_name"]).first.wait_for()
    editor.shot("search")


def test_search_finds_the_pack_by_words_of_other_packs(editor):
    nodes = pack_nodes(editor.server).values()
    if not any(node.get("search_aliases") for node in nodes):
        pytest.skip("this ComfyUI searches names only (aliases came with 0.10)")
    ours = re.compile("|".join(re.escape(node["display_name"]) for node in nodes))
    for words in NEIGHBOUR_WORDS:
        editor.search(words).filter(has_text=ours).first.wait_for()
        editor.page.keyboard.press("Escape")


def test_what_few_need_is_folded_until_it_is_asked_for(editor):
    apply = editor.add("NestedAttentionApply")
    folded = {"norm", "norm_factor"}
    assert names_of(editor, apply, "w => w.advanced ?? w.options.advanced") == folded
    if not names_of(editor, apply, "w => w.advanced"):
        return  # some editors fold in their new design only
    assert not folded & names_of(editor, apply, "w => node.isWidgetVisible(w)")
    editor.page.evaluate("id => app.graph.getNodeById(id).toggleAdvanced()", apply)
    assert folded <= names_of(editor, apply, "w => node.isWidgetVisible(w)")


def names_of(editor, node: int, which: str) -> set[str]:
    """Names of the node's widgets of which a condition in JavaScript is true."""
    return set(
        editor.page.evaluate(
            f"""id => {{
              const node = app.graph.getNodeById(id)
              return node.widgets.filter({which}).map(w => w.name)
            }}""",
            node,
        )
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_nodes_speak_the_language_of_the_interface(editor, language):
    folder = ROOT / "locales"
    if not folder.is_dir():
        pytest.skip("there is no locales/, so that there is nothing to look for")
    texts = json.loads((folder / language / "nodeDefs.json").read_text(encoding="utf-8"))
    if editor.version() in FORGETFUL:
        pytest.skip("this editor forgets the translations of node packs (ComfyUI_frontend #7214)")
    if not choose_language(editor, LANGUAGES[language]):
        pytest.skip(f"this ComfyUI has no interface in {LANGUAGES[language]}")
    try:
        editor.open()
        for kind in pack_nodes(editor.server):
            title = editor.page.evaluate("kind => LiteGraph.createNode(kind).title", kind)
            assert title == texts[kind]["display_name"]
        name = texts["NestedAttentionApply"]["display_name"]
        editor.search(name).filter(has_text=name).first.wait_for()
        editor.shot(f"language-{language}")
    finally:
        editor.server.request("/settings/Comfy.Locale", b'"en"')


def choose_language(editor, name: str) -> bool:
    """Chooses it in the settings; False where the list has it not."""
    page = editor.page
    page.keyboard.press("Control+,")
    page.locator("[id='Comfy.Locale']").click()
    page.get_by_role("option", name="English").wait_for()
    option = page.get_by_role("option", name=name, exact=True)
    if option.count() == 0:
        return False
    with page.expect_response(lambda answer: "Comfy.Locale" in answer.url):
        option.click()
    return True
