"""A saved subject's file: what it keeps, and what is said of files that cannot be read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from nested_attn_core.attention import NormControl
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.subject import Subject
from nested_attn_core.subject_file import METADATA_KEY, SavedSubject, load_subject, save_subject


def encoder(fingerprint: str = "abc" * 8, width: int = 4) -> Any:
    config = SimpleNamespace(token_dim=width)
    info = SimpleNamespace(licence="CC0", config=config)
    return SimpleNamespace(
        label="person.safetensors", fingerprint=fingerprint, info=info, placeholder={}
    )


def subject(**changes: Any) -> Subject:
    tokens = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    made = Subject(
        "änna", tokens, "young person", "person", encoder(), encoder().fingerprint,
        norm=NormControl("text", 1.5), token_weight=16.0,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "anna.safetensors"
    save_subject(path, SavedSubject.of(subject()))
    return path


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def refused(path: Path) -> str:
    with pytest.raises(NestedAttentionError) as error:
        load_subject(path)
    text = str(error.value)
    assert re.fullmatch(r"[^\n]+\.", text) and ". " not in text and str(path.parent) not in text
    assert path.name in text
    return text


@given(
    rows=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    name=st.sampled_from(["anna", "Rex-2", "ж", "名前"]),
    norm=st.sampled_from([NormControl("none"), NormControl("text", 0.25)]),
    weight=st.floats(0.0625, 16),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_subject_comes_back_as_it_was(
    tmp_path: Path, rows: int, dtype: torch.dtype, name: str, norm: NormControl, weight: float
) -> None:
    before = subject(
        name=name, tokens=torch.randn(rows, 4).to(dtype), norm=norm, token_weight=weight
    )
    file = tmp_path / "x.safetensors"
    save_subject(file, SavedSubject.of(before))
    after = load_subject(file).with_encoder(encoder())
    assert after.fingerprint == before.fingerprint
    assert after.name == name and torch.equal(after.tokens, before.tokens)
    assert load_subject(file).licence == "CC0"


def test_settings_of_a_picture_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    mask = torch.zeros(8, 8)
    save_subject(file, SavedSubject.of(subject(strength=0.5, end_percent=0.5, mask=mask)))
    after = load_subject(file).with_encoder(encoder())
    assert after.fingerprint == subject().fingerprint


def test_another_name_may_be_given(path: Path) -> None:
    assert load_subject(path).with_encoder(encoder(), "bob").name == "bob"


@pytest.mark.parametrize("other", [encoder("abd" * 8), encoder(width=5)])
def test_another_encoder_is_refused(path: Path, other: Any) -> None:
    with pytest.raises(NestedAttentionError, match=r"made by the encoder person.safetensors"):
        load_subject(path).with_encoder(other)


def test_an_interruption_leaves_the_file_that_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nested_attn_core.whole_files as module

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError):
        save_subject(path, SavedSubject.of(subject(name="rex")))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("length", [0, 4, 20, 100, -10])
def test_a_cut_file(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert re.search("cut short|is empty", refused(path))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_x.lora_down.weight": torch.zeros(2)}, "a LoRA"),
        ({"resampler.a": torch.zeros(2), "projections.b": torch.zeros(2)}, "a nested encoder"),
        ({"unheard": torch.zeros(2)}, "of no kind known"),
        ({"nested_tokens": torch.zeros(2, 2)}, "has lost the description"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, tensors: dict[str, Any], says: str) -> None:
    path = tmp_path / "anna.safetensors"
    save_file(tensors, path)
    text = refused(path)
    assert says in text and "Nested Attention encoder" not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "update the pack"),
        ({"format_version": "1"}, "cannot be read"),
        ({"name": "an na"}, "cannot be a subject's name"),
        ({"name": 3}, "cannot be read"),
        ({"class_word": " "}, "no class word"),
        ({"token_weight": -1.0}, "token weight"),
        ({"token_weight": None}, "cannot be read"),
        ({"norm": {"mode": "loud"}}, "cannot be read"),
        ({"norm": [1]}, "cannot be read"),
        ({"encoder_fingerprint": None}, "cannot be read"),
    ],
)
def test_a_description_that_makes_no_sense(path: Path, change: dict[str, Any], says: str) -> None:
    about = {**described(path), **change}
    save_file({"nested_tokens": torch.zeros(3, 4)}, path, {METADATA_KEY: json.dumps(about)})
    assert says in refused(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "null"])
def test_a_description_that_is_none(path: Path, text: str) -> None:
    save_file({"nested_tokens": torch.zeros(3, 4)}, path, {METADATA_KEY: text})
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"nested_tokens": torch.full((3, 4), float("nan"))},
        {"nested_tokens": torch.zeros(3)},
        {"nested_tokens": torch.zeros(3, 4, dtype=torch.long)},
        {"nested_tokens": torch.zeros(3, 4), "more": torch.zeros(1)},
        {"other": torch.zeros(3, 4)},
    ],
)
def test_tokens_that_cannot_be_used(path: Path, tensors: dict[str, Any]) -> None:
    save_file(tensors, path, {METADATA_KEY: json.dumps(described(path))})
    assert re.search("cannot be used|does not hold", refused(path))


def test_a_saved_subject_may_be_read_by_whom_the_umask_lets(tmp_path: Path, path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
