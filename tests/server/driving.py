"""Small helpers of the server tests."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

from host_server import HostServer, node_of
from pack import ROOT, host_path

REFERENCES = ROOT / "models" / "references"
Graph = dict[str, Any]
MUTED = 2


def new_server(base: Path, **options: Any) -> HostServer:
    """A server on the host that the tests use, with folders of its own."""
    python = Path(os.environ.get("COMFYUI_PYTHON", sys.executable))
    return HostServer(host_path(), python, base, **options)


def first_reference(domain: str) -> Path:
    found = sorted((REFERENCES / domain).glob("*.png"))
    assert found, f"no reference pictures in models/references/{domain}"
    return found[0]


def upload_references(server: HostServer) -> dict[str, str]:
    """A held-out reference of each kind among the server's inputs; their names there."""
    return {
        domain: server.upload(first_reference(domain), f"{domain}.png")
        for domain in ("person", "kitten")
    }


def prepared(name: str, references: dict[str, str]) -> Graph:
    """A shipped workflow by its file name, sampled with few steps.

    The ones of one and of two subjects get these references by Load Image in place of Example
    Picture, as their notes tell users to do.
    """
    graph = json.loads((ROOT / "workflows" / "api" / name).read_text(encoding="utf-8"))
    for node in graph.values():
        basic = name.startswith(("one_subject", "two_subjects"))
        if basic and node["class_type"] == "NestedAttentionExamplePicture":
            kitten = "kitten" in node.get("_meta", {}).get("title", "").lower()
            node["class_type"] = "LoadImage"
            node["inputs"] = {"image": references["kitten" if kitten else "person"]}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 4
    return graph


def changed(graph: Graph, kind: str, title: str | None = None, **inputs: Any) -> Graph:
    """A copy of a workflow with other inputs on one node."""
    graph = copy.deepcopy(graph)
    graph[node_of(graph, kind, title)]["inputs"].update(inputs)
    return graph


def cached(entry: dict[str, Any]) -> set[str]:
    """The nodes that a job took from the host's cache instead of running them."""
    for event, data in entry["status"]["messages"]:
        if event == "execution_cached":
            return set(data["nodes"])
    raise AssertionError("the host did not say what it had cached")


def forget(server: HostServer) -> None:
    """Empties the host's cache: it keeps only what the latest workflow uses."""
    server.run(
        {
            "1": {
                "class_type": "EmptyImage",
                "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
            },
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
    )


def api_form(document: dict[str, Any], info: dict[str, Any]) -> Graph:
    """What the browser would queue for a workflow in UI form: everything that is not muted."""
    sources = {link[0]: [str(link[1]), link[2]] for link in document["links"]}
    graph = {}
    for node in document["nodes"]:
        if node["type"] not in info:
            assert node["type"] in ("MarkdownNote", "Note"), node["type"]
            continue
        if node["mode"] == MUTED:
            continue
        widgets = [slot["widget"]["name"] for slot in node["inputs"] if slot.get("widget")]
        values = list(node["widgets_values"])
        if "seed" in widgets:
            values.pop(widgets.index("seed") + 1)
        inputs = dict(zip(widgets, values, strict=True))
        inputs.pop("upload", None)
        for slot in node["inputs"]:
            if slot["link"] is not None:
                inputs[slot["name"]] = sources[slot["link"]]
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node["title"]},
        }
    return graph


def set_mode(document: dict[str, Any], group: str, mode: int) -> None:
    """Gives all nodes of the group whose title begins so a mode: 0, or MUTED as by Ctrl+M."""
    (box,) = (g["bounding"] for g in document["groups"] if g["title"].startswith(group))
    for node in document["nodes"]:
        x, y = node["pos"]
        if box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]:
            node["mode"] = mode
