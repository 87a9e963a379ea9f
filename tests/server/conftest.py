"""A real ComfyUI server with the pack linked into its custom_nodes, shared by these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from driving import Graph, new_server, prepared, upload_references
from host_server import HostServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """The shared server, stopped at the end of the session."""
    with new_server(tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture(scope="session")
def workflow(server: HostServer) -> Callable[[str], Graph]:
    """A shipped workflow by its file name, with held-out references, sampled with few steps."""
    names = upload_references(server)
    return lambda name: prepared(name, names)


@pytest.fixture
def graph(workflow: Callable[[str], Graph]) -> Graph:
    """The two-subject workflow."""
    return workflow("two_subjects.json")
