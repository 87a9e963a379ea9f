"""The registry's archive, unpacked into a fresh custom_nodes and used through the real server."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from archive import pack, packed_files
from driving import changed, new_server
from host_server import PACK_FOLDER, HostServer, node_of
from pack import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not in a git clone"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    base = tmp_path_factory.mktemp("installed")
    pack(packed_files(), base / "archive.zip")
    with zipfile.ZipFile(base / "archive.zip") as archive:
        archive.extractall(base / "custom_nodes" / PACK_FOLDER)
    with new_server(base, pack=False) as running:
        yield running


def test_nodes_templates_translations_and_help_are_there(installed):
    promised = json.loads((ROOT / "tests" / "host" / "schema.json").read_text("utf-8"))
    nodes = installed.get("/object_info")
    assert promised.keys() <= nodes.keys()
    (encoders,) = nodes["NestedAttentionLoadEncoder"]["input"]["required"].values()
    assert "(shipped) person.safetensors" in json.dumps(encoders)
    assert {"one_subject", "two_subjects"} <= set(
        installed.get("/api/workflow_templates")[PACK_FOLDER]
    )
    assert promised.keys() <= installed.get("/i18n")["de"]["nodeDefs"].keys()
    for node in promised:
        status, _ = installed.request(f"/extensions/{PACK_FOLDER}/docs/{node}.md")
        assert status == 200, node


def test_the_log_has_no_complaint(installed):
    lines = [line for line in installed.log_text().splitlines() if PACK_FOLDER in line]
    assert lines and not [line for line in lines if "FAILED" in line or "rror" in line]


def test_an_image_is_made_with_nothing_but_the_archive(installed):
    path: Path = ROOT / "workflows" / "api" / "one_subject.json"
    graph = json.loads(path.read_text(encoding="utf-8"))
    graph = changed(graph, "KSampler", steps=2)
    entry = installed.run(graph)
    assert len(installed.images(entry, node_of(graph, "SaveImage"))) == 1
