"""A real ComfyUI server with the pack linked into its custom_nodes, shared by these tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from driving import Graph, first_reference, new_server
from host_server import HostServer
from pack import ROOT


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """The shared server, stopped at the end of the session."""
    with new_server(tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture(scope="session")
def workflow(server: HostServer) -> Callable[[str], Graph]:
    """A shipped workflow by its file name, its Load Image nodes filled with held-out references,
    sampled with few steps."""
    names = {
        domain: server.upload(first_reference(domain), f"{domain}.png")
        for domain in ("person", "kitten")
    }

    def prepared(name: str) -> Graph:
        graph = json.loads((ROOT / "workflows" / name).read_text(encoding="utf-8"))
        for node in graph.values():
            if node["class_type"] == "LoadImage":
                kitten = "kitten" in node.get("_meta", {}).get("title", "").lower()
                node["inputs"]["image"] = names["kitten" if kitten else "person"]
            if node["class_type"] == "KSampler":
                node["inputs"]["steps"] = 4
        return graph

    return prepared


@pytest.fixture
def graph(workflow: Callable[[str], Graph]) -> Graph:
    """The two-subject workflow."""
    return workflow("two_subjects_api.json")
