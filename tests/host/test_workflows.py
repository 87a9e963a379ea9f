"""The example graphs: both forms say the same, and the host accepts them."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from commands.pack import ROOT

WORKFLOWS = ROOT / "workflows"
NAMES = tuple(path.stem for path in sorted(WORKFLOWS.glob("*.json")))
NOTES = {"MarkdownNote", "Note"}
MUTED = 2
# The host's extra nodes that graphs use, which its main.py loads.
EXTRAS = ("nodes_preview_any", "nodes_mask")


def load(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api_of(graph: dict[str, Any], muted: bool = False) -> dict[str, Any]:
    """The API form of an editor's graph, as the editor would send it; `muted`: with all of it."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {**_widgets(node), **_wired(node, sources)},
            "_meta": {"title": node["title"]},
        }
        for node in graph["nodes"]
        if node["type"] not in NOTES and (muted or node["mode"] != MUTED)
    }


def _wired(node: dict[str, Any], sources: dict[int, list[Any]]) -> dict[str, Any]:
    return {
        entry["name"]: sources[entry["link"]]
        for entry in node["inputs"]
        if entry["link"] is not None
    }


def _widgets(node: dict[str, Any]) -> dict[str, Any]:
    """Widget values by name; the editor's own control after a seed is no input."""
    values = iter(node["widgets_values"])
    found = {}
    for entry in node["inputs"]:
        if "widget" in entry:
            found[entry["name"]] = next(values)
            if entry["name"] == "seed":
                next(values)
    found.pop("upload", None)
    assert not list(values)
    return found


def test_there_are_six_graphs() -> None:
    assert len(NAMES) == 6


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_same_graph(name: str) -> None:
    assert api_of(load(name)) == load(f"api/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_links_are_told_the_same_at_both_ends(name: str) -> None:
    graph = load(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, source, output, target, entry, kind in graph["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == number
        assert nodes[target]["inputs"][entry]["type"] in (kind, "*")
    assert graph["last_node_id"] == max(nodes)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_on_another(name: str) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in load(name)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:index]:
            apart = x >= other_x + other_width or other_x >= x + width
            assert apart or y >= other_y + other_height or other_y >= y + height


@pytest.mark.parametrize("name", NAMES)
def test_the_host_accepts_the_graph(host: Any, name: str) -> None:
    import folder_paths

    execution: Any = importlib.import_module("execution")
    for extra in EXTRAS:
        path = Path(host.__file__).parent / "comfy_extras" / f"{extra}.py"
        assert asyncio.run(host.load_custom_node(str(path), module_parent="comfy_extras"))
    graph = api_of(load(name), muted=True)
    inputs = Path(folder_paths.get_input_directory())
    placed = []
    for node in graph.values():
        image = node["inputs"].get("image")
        if isinstance(image, str) and not (inputs / image).exists():
            (inputs / image).write_bytes(b"")
            placed.append(inputs / image)
    try:
        valid, error, _, details = asyncio.run(execution.validate_prompt("id", graph, None))
        assert valid, (error, details)
        known = {
            key: {
                entry.id
                for entry in host.NODE_CLASS_MAPPINGS[node["class_type"]].GET_SCHEMA().inputs
            }
            for key, node in graph.items()
            if node["class_type"].startswith("NestedAttention")
        }
        assert all(graph[key]["inputs"].keys() <= names for key, names in known.items())
    finally:
        for path in placed:
            path.unlink()
