"""What runs leave behind: no file unless a Save node is wired, no picture in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors import safe_open

from commands.pack import module

from .bench import Bench, node
from .graphs import everything
from .guard import GUARD


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folders(bench: Bench) -> tuple[Path, Path]:
    """The bench's folder, which holds those of the pack, and the host's for temporary files."""
    return bench.folder, Path(folder_paths.get_temp_directory())


def test_loading_the_pack_touches_nothing() -> None:
    """A second copy, as the first came with the session."""
    with GUARD.on():
        extension = module("nodes.extension")
        asyncio.run(extension.NestedAttentionExtension().get_node_list())
    assert GUARD.forbidden == []
    made = [Path(folder_paths.get_folder_paths(name)[-1]) for name in
            ("nested_attention", "nested_subjects")]  # fmt: skip
    models = Path(folder_paths.models_dir)
    made += [models / "nested_attention", models / "nested_subjects"]
    assert GUARD.outside(*made) == []


def test_nothing_is_written_unless_a_save_node_is_wired(
    bench: Bench, folders: tuple[Path, Path]
) -> None:
    graph = everything()
    del graph["save"]
    graph["preview"] = node("PreviewImage", images=["maps", 2])
    own, temporary = folders
    before, shown = files(own), files(temporary)
    assert bench.run(graph).how == "result"
    assert files(own) == before
    assert GUARD.outside(temporary) == []
    # The host's previews, which it deletes when it starts and when it ends.
    assert {path.suffix for path in files(temporary) - shown} == {".png"}


def test_a_save_node_writes_one_file_and_only_what_it_says(
    bench: Bench, folders: tuple[Path, Path]
) -> None:
    own, _ = folders
    before = files(own)
    graph = everything()
    # A name that no case before this one can have taken, which would give it a number.
    graph["save"]["inputs"]["filename"] = "of this test alone"
    assert bench.run(graph).how == "result"
    (path,) = files(own) - before
    assert path == own / "subjects" / "of this test alone.safetensors"
    with safe_open(path, "pt") as file:
        (name,) = file.keys()
        tokens, metadata = file.get_tensor(name), file.metadata()
    (about,) = (json.loads(text) for text in metadata.values())
    assert set(about) == {
        "name", "class_word", "domain", "encoder_fingerprint", "encoder_label", "licence", "norm",
        "token_weight", "format_version",
    }  # fmt: skip
    # Nothing else fits in: what describes the tokens is short.
    assert path.stat().st_size < tokens.numel() * tokens.element_size() + 1500
    path.unlink()


def test_logs_hold_no_picture(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def pictures(value: Any) -> bool:
        return isinstance(value, (torch.Tensor, bytes)) or "array" in type(value).__name__

    graph = everything()
    graph["positive"]["inputs"]["text"] = "a <anna> alone"  # rex unnamed: the pack says so
    with caplog.at_level(logging.DEBUG):
        assert bench.run(graph).how == "result"
        graph["image"]["inputs"]["width"] = 16  # too small: the message is logged
        assert bench.run(graph).how == "message"
    ours = [record for record in caplog.records if record.name == "nested_attention"]
    assert ours
    for record in caplog.records:
        args = record.args if isinstance(record.args, tuple) else ()
        assert not any(map(pictures, args))
        assert "tensor(" not in record.getMessage()
    assert all(len(record.getMessage()) <= 1000 for record in ours)
    for path in (bench.folder / "subjects").glob("saved*"):
        path.unlink()
