"""The shipped workflows, run by the real server."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from driving import Graph, api_form, cached, changed, forget
from host_server import HostServer, node_of
from pack import ROOT

WORKFLOWS = sorted(path.name for path in (ROOT / "workflows" / "api").glob("*.json"))


def pixels(server: HostServer, graph: Graph, entry: dict[str, Any]) -> list[np.ndarray]:
    files = server.images(entry, node_of(graph, "SaveImage"))
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_shipped_workflow_makes_an_image_as_it_comes(server, name):
    graph = json.loads((ROOT / "workflows" / "api" / name).read_text(encoding="utf-8"))
    graph = changed(graph, "KSampler", steps=4)
    forget(server)
    entry = server.run(graph)
    assert cached(entry) == set()
    (image,) = pixels(server, graph, entry)
    assert image.shape == (128, 128, 3)
    assert image.std() > 10


def test_both_subjects_are_bound_and_each_changes_the_image(server, graph):
    forget(server)  # the host reports what a node showed only when the node ran
    entry = server.run(graph)
    (report,) = entry["outputs"][node_of(graph, "NestedAttentionPrompt")]["text"]
    assert "anna" in report and "rex" in report and "not named" not in report
    (image,) = pixels(server, graph, entry)
    (other_seed,) = pixels(server, graph, server.run(changed(graph, "KSampler", seed=2)))
    swapped = changed(
        graph, "LoadImage", "Reference of the person", image=other_reference(server, "person")
    )
    (other_person,) = pixels(server, graph, server.run(swapped))
    swapped = changed(
        graph, "LoadImage", "Reference of the kitten", image=other_reference(server, "kitten")
    )
    (other_kitten,) = pixels(server, graph, server.run(swapped))
    for changed_image in (other_seed, other_person, other_kitten):
        assert not np.array_equal(changed_image, image)


def other_reference(server: HostServer, domain: str) -> str:
    second = sorted((ROOT / "models" / "references" / domain).glob("*.png"))[1]
    return server.upload(second, f"{domain}-other.png")


def test_moving_the_strength_encodes_nothing_again(server, graph):
    forget(server)
    first = server.run(graph)
    assert cached(first) == set()
    again = server.run(changed(graph, "NestedAttentionApply", strength=0.4))
    kept = {
        key
        for key, node in graph.items()
        if node["class_type"]
        in (
            "NestedAttentionLoadMiniature",
            "NestedAttentionLoadEncoder",
            "NestedAttentionEncodeSubject",
            "NestedAttentionCombineSubjects",
        )
    }
    assert len(kept) == 6
    assert kept <= cached(again)
    assert node_of(graph, "NestedAttentionApply") not in cached(again)


def test_an_image_after_an_interrupted_run_is_the_same_as_before(server, graph):
    (before,) = pixels(server, graph, server.run(graph))
    steps = 3000
    job = server.queue(changed(graph, "KSampler", steps=steps))

    def interrupt_while_sampling() -> None:
        if f"/{steps} [" in server.log_text():
            server.interrupt()

    entry = server.wait(job, interrupt_while_sampling)
    events = [event for event, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in events and "execution_success" not in events
    after = server.run(graph)
    assert node_of(graph, "KSampler") not in cached(after)
    assert np.array_equal(pixels(server, graph, after)[0], before)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_editor_s_form_is_the_same_workflow(server, name):
    api = json.loads((ROOT / "workflows" / "api" / name).read_text(encoding="utf-8"))
    form = (ROOT / "workflows" / name).read_text(encoding="utf-8")
    assert api_form(json.loads(form), server.get("/object_info")) == api


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_editor_s_form_is_wired_and_laid_out_soundly(server, name):
    document = json.loads((ROOT / "workflows" / name).read_text("utf-8"))
    info = server.get("/object_info")
    nodes = {node["id"]: node for node in document["nodes"]}
    for link, origin, output, target, slot, kind in document["links"]:
        source, sink = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link in source["links"] and sink["link"] == link
        assert source["type"] == kind and sink["type"] in (kind, "*")
        assert info[nodes[origin]["type"]]["output"][output] == kind
    boxes = [(*node["pos"], *node["size"]) for node in document["nodes"]]
    overlapping = [
        (a, b)
        for index, a in enumerate(boxes)
        for b in boxes[index + 1 :]
        # A node's title bar lies 30 pixels above its position.
        if a[0] < b[0] + b[2]
        and b[0] < a[0] + a[2]
        and a[1] - 30 < b[1] + b[3]
        and b[1] - 30 < a[1] + a[3]
    ]
    assert overlapping == []
