"""Files of every kind in the folders of the pack, and every name for a file, in the executor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from . import values
from .bench import Bench, node
from .cases import LONG, cases
from .contents import contents, mappings, whole_files
from .graphs import BASE, ENCODER, VISION, applied, sampled, sink

pytestmark = pytest.mark.reliability
NAME = "file.safetensors"
LOADED_NAMES = st.one_of(
    st.just(NAME),
    st.sampled_from(
        ["", ".", "..", "../file.safetensors", "/etc/passwd", "C:\\x", "gone.safetensors", "a\0b",
         "(shipped) person.safetensors", "(shipped) ../person.safetensors", "folder.safetensors",
         "link.safetensors", "x" * 5000, "file.safetensors/", "./file.safetensors", "~", "\ud800"]
    ),
    st.sampled_from([None, 5, 0.5, True, {}, {"a": 1}, "\u202e", "a\nb"]),
)  # fmt: skip


@pytest.fixture(scope="session")
def whole(bench: Bench) -> dict[str, bytes]:
    return whole_files(bench.world, bench.folder)


def _place(folder: Path) -> Iterator[Path]:
    """A folder of the pack, with a folder called as a file, and a link to nowhere, in it."""
    (folder / "folder.safetensors").mkdir(exist_ok=True)
    link = folder / "link.safetensors"
    if not link.is_symlink():
        try:
            link.symlink_to(folder / "nowhere")
        except OSError:
            link = folder / "folder.safetensors"  # a system without links
    yield folder
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture
def encoders(bench: Bench) -> Iterator[Path]:
    yield from _place(bench.folder / "encoders")


@pytest.fixture
def subjects(bench: Bench) -> Iterator[Path]:
    yield from _place(bench.folder / "subjects")


@cases(45)
@given(data=st.data())
def test_encoder_files(
    bench: Bench, whole: dict[str, bytes], encoders: Path, data: st.DataObject
) -> None:
    likely = data.draw(st.sampled_from(["encoder", "encoder", "release"]), "likely")
    (encoders / NAME).write_bytes(data.draw(contents(whole, likely), "content"))
    mapping = encoders / "file.mapping.json"
    mapping.unlink(missing_ok=True)
    if data.draw(st.integers(0, 2 if likely == "release" else 9), "mapping") == 0:
        mapping.write_bytes(data.draw(mappings(), "mapping"))
    ending = bench.run(_encoding(NAME))
    if ending.how == "result":
        assert bool(torch.isfinite(ending.value["samples"]).all())


def _encoding(name: Any) -> dict[str, Any]:
    return {
        **BASE,
        "file": node("NestedAttentionLoadEncoder", encoder_name=name),
        "image": node("EmptyImage", width=48, height=40, batch_size=1, color=255),
        "subject": node(
            "NestedAttentionEncodeSubject", encoder=["file", 0], clip_vision=VISION,
            image=["image", 0], name="anna",
        ),
        **applied("subject"),
        **sampled(),
    }  # fmt: skip


def _loading(name: Any, called: Any = "") -> dict[str, Any]:
    load = node("NestedAttentionLoadSubject", encoder=ENCODER, subject_name=name, name=called)
    return {**BASE, "load": load, **applied("load"), **sampled()}


@cases(30)
@given(data=st.data())
def test_subject_files(
    bench: Bench, whole: dict[str, bytes], subjects: Path, data: st.DataObject
) -> None:
    (subjects / NAME).write_bytes(data.draw(contents(whole, "subject"), "content"))
    called = data.draw(st.one_of(st.just(""), values.NAMES), "name")
    ending = bench.run(_loading(NAME, called))
    if ending.how == "result":
        assert bool(torch.isfinite(ending.value["samples"]).all())


@cases(12)
@given(name=LOADED_NAMES, called=values.NAMES)
def test_names_of_files_to_load(
    bench: Bench, whole: dict[str, bytes], encoders: Path, subjects: Path, name: Any, called: str
) -> None:
    (encoders / NAME).write_bytes(whole["encoder"])
    (subjects / NAME).write_bytes(whole["subject"])
    bench.run(_encoding(name))
    bench.run(_loading(name, called))


@cases(30)
@given(data=st.data())
def test_names_of_files_to_save(bench: Bench, subjects: Path, data: st.DataObject) -> None:
    name = data.draw(values.FILENAMES, "filename")
    graph = {**BASE, "one": bench.given("NESTED_SUBJECT", bench.world.subject())}
    inputs: dict[str, Any] = {"subject": ["one", 0], "filename": name}
    if data.draw(st.booleans(), "thumbnail"):
        graph["picture"] = bench.given("IMAGE", data.draw(values.images(), "picture"))
        inputs["thumbnail"] = ["picture", 0]
    before, around = set(os.listdir(subjects)), set(os.listdir(bench.folder))
    graph["save"] = node("NestedAttentionSaveSubject", **inputs)
    ending = bench.run({**graph, **sink("save", 1)})
    new = set(os.listdir(subjects)) - before
    assert set(os.listdir(bench.folder)) == around
    if ending.how != "result":
        assert new == set()
        return
    (saved,) = (entry for entry in new if entry.endswith(".safetensors"))
    assert new <= {saved, saved.replace(".safetensors", ".png")}
    assert bench.run(_loading(saved)).how == "result"
    for entry in new:
        (subjects / entry).unlink()


@pytest.mark.skipif(not LONG, reason="writes 100 MB: in the long form only")
@pytest.mark.parametrize("content", ["noise", "zeros", "header"])
def test_large_files(bench: Bench, encoders: Path, subjects: Path, content: str) -> None:
    for folder, graph in ((encoders, _encoding(NAME)), (subjects, _loading(NAME))):
        with (folder / NAME).open("wb") as file:
            if content == "noise":
                for _ in range(100):
                    file.write(os.urandom(10**6))
            elif content == "header":
                file.write(
                    (99_999_000).to_bytes(8, "little") + b'{"a":"' + b"x" * 99_998_990 + b'"}'
                )
            else:
                file.truncate(100 * 10**6)
        assert bench.run(graph).how == "message"
