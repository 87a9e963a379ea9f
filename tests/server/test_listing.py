"""What the server lists with the pack in its custom_nodes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from driving import new_server
from host_server import PACK_FOLDER, HostServer
from pack import ROOT

NODES = {
    "NestedAttentionLoadMiniature",
    "NestedAttentionExamplePicture",
    "NestedAttentionLoadEncoder",
    "NestedAttentionEncodeSubject",
    "NestedAttentionCombineSubjects",
    "NestedAttentionApply",
    "NestedAttentionPrompt",
    "NestedAttentionTrainEncoder",
    "NestedAttentionSaveSubject",
    "NestedAttentionLoadSubject",
    "NestedAttentionSubjectSettings",
    "NestedAttentionWatch",
    "NestedAttentionMaps",
    "NestedAttentionCropFaces",
    "NestedAttentionSeparate",
}
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
FOLDERS_WITH_LISTS = ("checkpoints", "clip_vision", "vae", "loras", "diffusion_models")


def pack_nodes(server: HostServer) -> dict[str, Any]:
    listed = server.get("/object_info")
    return {name: node for name, node in listed.items() if name.startswith("NestedAttention")}


def listings(server: HostServer) -> dict[str, list[str]]:
    return {folder: server.get(f"/models/{folder}") for folder in FOLDERS_WITH_LISTS}


def test_every_node_is_listed_under_its_category(server):
    nodes = pack_nodes(server)
    assert nodes.keys() >= NODES
    assert {node["category"] for node in nodes.values()} == {"nested attention"}


def test_every_input_and_output_says_what_it_is_for(server):
    silent = [
        f"{name}.{slot}"
        for name, node in pack_nodes(server).items()
        for kind, group in node["input"].items()
        if kind != "hidden"  # given by the host; nobody sees it
        for slot, spec in group.items()
        if len(spec) < 2 or not spec[1].get("tooltip")
    ]
    silent += [
        f"{name} -> {slot}"
        for name, node in pack_nodes(server).items()
        for slot, tooltip in zip(
            node["output_name"], node["output_tooltips"] or [None] * 9, strict=False
        )
        if not tooltip
    ]
    assert silent == []


def test_shipped_encoders_are_offered_and_marked(server):
    node = server.get("/object_info/NestedAttentionLoadEncoder")["NestedAttentionLoadEncoder"]
    kind, options = node["input"]["required"]["encoder_name"]
    offered = kind if isinstance(kind, list) else options["options"]
    assert {"(shipped) kitten.safetensors", "(shipped) person.safetensors"} <= set(offered)
    assert "(shipped) miniature.safetensors" not in offered


def test_the_folder_for_encoders_is_made_and_known(server):
    assert "nested_attention" in server.get("/models")
    assert (server.base / "models" / "nested_attention").is_dir()


def test_the_pack_loads_without_a_complaint(server):
    lines = [line for line in server.log_text().splitlines() if PACK_FOLDER in line]
    assert any("seconds" in line for line in lines)
    assert not [line for line in lines if "FAILED" in line or "rror" in line]


def test_a_copy_loads_as_a_link_does_and_a_user_s_own_lists_stay(server, tmp_path):
    with new_server(tmp_path / "bare", pack=False) as bare:
        without, plain = bare.get("/object_info"), listings(bare)
    with new_server(tmp_path / "copied", copy=True) as copied:
        placed = copied.base / "custom_nodes" / PACK_FOLDER
        assert not placed.is_symlink() and (placed / "__init__.py").is_file()
        assert pack_nodes(copied).keys() == pack_nodes(server).keys()
        listed = copied.get("/object_info")
        assert listings(copied) == plain == listings(server)
    assert listed.keys() - pack_nodes(server).keys() == without.keys()
    loader = "CheckpointLoaderSimple"
    assert listed[loader]["input"] == without[loader]["input"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_workflows_are_offered_as_templates(server, name):
    offered = server.get("/api/workflow_templates")
    assert sorted(offered[PACK_FOLDER]) == TEMPLATES
    assert server.get(f"/api/workflow_templates/{PACK_FOLDER}/{name}.json")["nodes"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_has_a_small_thumbnail(server, name):
    status, file = server.request(f"/api/workflow_templates/{PACK_FOLDER}/{name}.jpg")
    assert status == 200 and len(file) < 40_000
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "JPEG" and image.size == (256, 256)
