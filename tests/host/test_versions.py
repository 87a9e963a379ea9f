"""Hosts that are too old, and names of files from other systems."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.pack import ROOT, host_path

from .conftest import World, pack, write_encoder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The pack as a folder that this process has not loaded yet."""
    folder = tmp_path / "nested-attention-copy"
    for part in ("nodes", "nested_attn_core"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / part, folder)
    return folder


def test_the_host_is_the_one_that_was_asked_for(host: Any) -> None:
    import folder_paths

    assert Path(folder_paths.__file__).parent == Path(host.__file__).parent == host_path()
    asked = os.environ.get("COMFYUI_PATH")  # dev.py sets it
    assert not asked or host_path() == Path(asked).expanduser().resolve()


def test_this_host_is_new_enough(host: Any) -> None:
    versions = pack("nodes.host.versions")
    assert versions.too_old() == ""
    assert f'requires-comfyui = ">={versions.OLDEST}"' in (ROOT / "pyproject.toml").read_text()
    minor = ".".join(map(str, versions.OLDEST_PYTHON))
    assert f'requires-python = ">={minor}"' in (ROOT / "pyproject.toml").read_text()
    assert versions.version() == importlib.import_module("comfyui_version").__version__


@pytest.mark.parametrize("lacks", ["comfy_api.latest", "WrappersMP.CALC_COND_BATCH", "Python"])
def test_an_old_host_gets_one_sentence_and_no_node(
    host: Any, copied: Path, lacks: str, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if lacks == "comfy_api.latest":
        monkeypatch.setitem(sys.modules, lacks, None)
    elif lacks == "Python":
        monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    else:
        kind = importlib.import_module("comfy.patcher_extension").WrappersMP
        monkeypatch.delattr(kind, "CALC_COND_BATCH")
    before = dict(host.NODE_CLASS_MAPPINGS)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(host.load_custom_node(str(copied)))
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("Nested Attention needs ") and message.endswith(".")
    assert ". " not in message and "update" in message and record.exc_info is None
    assert dict(host.NODE_CLASS_MAPPINGS) == before


def test_the_copy_loads_where_nothing_lacks(host: Any, copied: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(host, "NODE_CLASS_MAPPINGS", {})
    assert asyncio.run(host.load_custom_node(str(copied)))
    assert len(host.NODE_CLASS_MAPPINGS) >= 12


@pytest.mark.parametrize("name", ["people/anna.safetensors", "people\\anna.safetensors"])
def test_names_with_folders_of_either_system(
    host: Any, sd15: World, tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    import folder_paths

    for kind in ("nested_attention", "nested_subjects"):
        (tmp_path / kind / "people").mkdir(parents=True)
        places = ([str(tmp_path / kind)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, places)
    path = Path("people", "anna.safetensors")
    diffusion = sd15.model.model.diffusion_model
    write_encoder(tmp_path / "nested_attention" / path, diffusion, sd15.vision, "sd15")
    files = pack("nested_attn_core.subject_file")
    saved = files.SavedSubject.of(sd15.subject())
    files.save_subject(tmp_path / "nested_subjects" / path, saved)
    nodes = host.NODE_CLASS_MAPPINGS
    encoder = nodes["NestedAttentionLoadEncoder"].execute(name).result[0]
    assert encoder.fingerprint == sd15.encoder.fingerprint
    loaded = nodes["NestedAttentionLoadSubject"].execute(encoder, name).result[0]
    assert loaded.name == "anna"
    for outside in ("..\\..\\x.safetensors", "../../x.safetensors"):
        with pytest.raises(ValueError, match="There is no encoder"):
            nodes["NestedAttentionLoadEncoder"].execute(outside)
