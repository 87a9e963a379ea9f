"""Names for files, from people who mean it and people who do not; links laid in the way."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nested_attn_core.checkpoint import Backbone, EncoderInfo, save_encoder
from nested_attn_core.encoder import EncoderConfig, NestedEncoder, Site
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.file_names import SUFFIX, file_stem
from nested_attn_core.subject_file import SavedSubject, save_subject

PIECES = st.sampled_from(
    ["..", ".", "/", "\\", ":", "\0", " ", "C:", "\\\\?\\", "con", "NUL", "COM1", "lpt\u00b9", "~",
     "$", "%2e", "\u2024", "\uff0e", "\uff0f", "\u2215", "\u202e", "\n", "anna", "x" * 210,
     "é" * 101, "*", "?", '"', "<", ">", "|", ".safetensors", "-", "_"]
)  # fmt: skip
NAMES = st.one_of(
    st.text(max_size=30), st.lists(PIECES, max_size=6).map("".join),
    st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=6).map("".join),
)  # fmt: skip
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    kind + digit for kind in ("com", "lpt") for digit in "0123456789\u00b9\u00b2\u00b3"
}


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(name=NAMES)
@example("CON .x")
@example("com\u00b9")
@example("a" * 200 + ".safetensors")
def test_every_stem_is_one_file_in_its_folder_on_every_system(name: str) -> None:
    try:
        stem = file_stem(name)
    except NestedAttentionError:
        return
    written = stem + SUFFIX
    assert stem and stem == stem.strip() and not stem.startswith(".") and not stem.endswith(".")
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind("folder") / written
        assert path.parent == kind("folder") and path.name == written
        assert not kind(written).is_absolute() and ".." not in path.parts
    assert not set(written) & set('<>:"/\\|?*') and written.isprintable()
    assert stem.split(".")[0].strip().casefold() not in DEVICES
    assert len(written.encode()) <= 255


@pytest.mark.parametrize("name", sorted(DEVICES) + ["Con.txt", "CON .x", "nul.tar.gz", "..", "a/b"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(NestedAttentionError, match="no name for a file"):
        file_stem(name)


def saved() -> SavedSubject:
    return SavedSubject("anna", "person", "person", "f" * 64, "e", torch.ones(2, 3))


def encoder() -> tuple[NestedEncoder, EncoderInfo]:
    config = EncoderConfig(4, 2, 4, 4, 1, 1, 4, 1, (Site("middle", 0, 0, 4),))
    info = EncoderInfo("sd15", config, Backbone("x", "", 32), "person", "person")
    return NestedEncoder(config), info


@pytest.mark.parametrize("write", ["subject", "encoder"])
def test_a_link_at_the_unfinished_file_is_not_followed(tmp_path: Path, write: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    outside.write_text("mine")
    path = folder / "anna.safetensors"
    try:
        path.with_name(f"{path.name}.{os.getpid()}.part").symlink_to(outside)
    except OSError:
        pytest.skip("this system allows no links")
    if write == "subject":
        save_subject(path, saved())
    else:
        save_encoder(path, *encoder())
    assert outside.read_text() == "mine"
    assert path.is_file() and not path.is_symlink()
    assert [entry.name for entry in folder.iterdir()] == [path.name]
