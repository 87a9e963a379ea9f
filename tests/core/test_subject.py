"""Subject, Subjects and fingerprints."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from nested_attn_core.attention import NormControl
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.fingerprint import (
    content_fingerprint,
    file_fingerprint,
    weights_fingerprint,
)
from nested_attn_core.layers import LayerWeights
from nested_attn_core.subject import Subject, Subjects


def subject(name: str = "anna", **changes) -> Subject:
    tokens = torch.arange(12.0).reshape(3, 4)
    made = Subject(name, tokens, "person", "person", object(), "abc")
    return replace(made, **changes)


def test_a_subject_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        subject().strength = 2.0  # type: ignore[misc]


def test_equal_content_has_one_fingerprint_whatever_the_handle() -> None:
    assert subject().fingerprint == subject(encoder="another handle").fingerprint
    assert subject("Anna").fingerprint == subject("anna").fingerprint


CHANGES = [
    {"name": "rex"},
    {"tokens": torch.arange(12.0).reshape(4, 3)},
    {"tokens": torch.arange(12.0).reshape(3, 4) + 1e-4},
    {"tokens": torch.arange(12.0).reshape(3, 4).half()},
    {"class_word": "woman"},
    {"domain": "kitten"},
    {"encoder_fingerprint": "abd"},
    {"strength": 0.9},
    {"start_percent": 0.1},
    {"end_percent": 0.9},
    {"mask": torch.ones(2, 2)},
    {"norm": NormControl("none")},
    {"norm": NormControl("text", 1.5)},
    {"token_weight": 1.1},
    {"layers": LayerWeights(fine=0.9)},
]


def test_any_change_of_content_changes_the_fingerprint() -> None:
    prints = [subject(**change).fingerprint for change in [{}, *CHANGES]]
    assert len(set(prints)) == len(prints)


def test_masks_are_told_apart() -> None:
    masks = [torch.ones(2, 2), torch.zeros(2, 2), torch.ones(1, 2, 2), torch.ones(4, 1)]
    assert len({subject(mask=mask).fingerprint for mask in masks}) == len(masks)


def test_only_tokens_and_encoder_make_the_tokens_fingerprint() -> None:
    plain = subject().tokens_fingerprint
    kept = [c for c in CHANGES if not {"tokens", "encoder_fingerprint"} & c.keys()]
    assert {subject(**change).tokens_fingerprint for change in kept} == {plain}
    others = [c for c in CHANGES if c not in kept]
    assert plain not in {subject(**change).tokens_fingerprint for change in others}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "cannot be a subject's name"),
        ({"name": "two words"}, "cannot be a subject's name"),
        ({"class_word": " "}, "<anna> has no class word"),
        ({"tokens": torch.zeros(4)}, r"float32 of shape \(4,\); floating numbers"),
        ({"tokens": torch.zeros(0, 4)}, "floating numbers"),
        ({"tokens": torch.zeros(3, 4, dtype=torch.int64)}, "int64 of shape"),
        ({"tokens": torch.full((3, 4), float("nan"))}, "tokens of <anna> hold NaN"),
        ({"tokens": torch.full((3, 4), float("inf"))}, "tokens of <anna> hold NaN or infinite"),
        ({"strength": float("nan")}, "strength of <anna> is nan"),
        ({"token_weight": 0.0}, "token weight of <anna> is 0.0"),
        ({"start_percent": 0.6, "end_percent": 0.5}, "from 0.6 to 0.5"),
        ({"start_percent": -0.1}, "between 0 and 1"),
        ({"end_percent": 1.1}, "between 0 and 1"),
        ({"start_percent": float("nan")}, "between 0 and 1"),
        ({"mask": torch.zeros(3)}, r"mask of <anna> has shape \(3,\)"),
        ({"mask": torch.zeros(1, 0, 3)}, "mask of <anna> has shape"),
        ({"mask": torch.full((2, 2), float("nan"))}, "mask of <anna> holds NaN"),
    ],
)
def test_senseless_subjects_are_refused(change, message) -> None:
    with pytest.raises(NestedAttentionError, match=message):
        subject(**change)


def test_subjects_keep_their_order() -> None:
    anna, rex, tom = subject("anna"), subject("rex"), subject("tom")
    joined = Subjects.of(anna, Subjects.of(rex, tom))
    assert joined.names == ("anna", "rex", "tom")
    assert list(joined) == [anna, rex, tom]
    assert (len(joined), joined[1]) == (3, rex)
    assert len(Subjects()) == 0


@pytest.mark.parametrize("other", ["anna", "ANNA", "ａｎｎａ"])
def test_two_subjects_of_one_name_are_refused(other) -> None:
    with pytest.raises(NestedAttentionError, match="Two subjects are called <anna>; give each"):
        Subjects.of(subject("anna"), subject("rex"), subject(other))


def test_the_fingerprint_of_subjects_follows_content_and_order() -> None:
    anna, rex = subject("anna"), subject("rex")
    sets = [(), (anna,), (rex,), (anna, rex), (rex, anna), (anna, replace(rex, strength=0.5))]
    prints = [Subjects(items).fingerprint for items in sets]
    assert len(set(prints)) == len(prints)
    assert Subjects((anna, rex)).fingerprint == Subjects.of(subject("anna"), rex).fingerprint


def test_parts_of_a_fingerprint_do_not_run_together() -> None:
    assert content_fingerprint([12, 3]) != content_fingerprint([1, 23])
    assert content_fingerprint([torch.zeros(0)]) != content_fingerprint([])


def test_layout_and_dtype_in_a_fingerprint() -> None:
    square = torch.arange(4.0).reshape(2, 2)
    assert content_fingerprint([square.T]) == content_fingerprint([square.T.contiguous()])
    assert content_fingerprint([square.T]) != content_fingerprint([square])
    assert content_fingerprint([square.bfloat16()]) != content_fingerprint([square.half()])


def test_a_files_fingerprint_is_its_sha256(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_fingerprint(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_weights_have_one_fingerprint_in_fp32_and_fp16() -> None:
    torch.manual_seed(0)
    half = {"a": torch.randn(9, 20).half(), "b": torch.randn(3).half()}
    full = {name: tensor.float() for name, tensor in reversed(half.items())}
    drawn = {name: torch.randn(tensor.shape) for name, tensor in half.items()}
    assert weights_fingerprint(half) == weights_fingerprint(full)
    assert weights_fingerprint(drawn) == weights_fingerprint(
        {name: tensor.half() for name, tensor in drawn.items()}
    )
    assert weights_fingerprint(half) != weights_fingerprint(drawn)


def test_other_weights_have_other_fingerprints() -> None:
    states = [
        {"a": torch.zeros(4, 2)},
        {"b": torch.zeros(4, 2)},
        {"a": torch.zeros(2, 4)},
        {"a": torch.ones(4, 2)},
        {"a": torch.zeros(4, 2), "b": torch.zeros(1)},
    ]
    assert len({weights_fingerprint(state) for state in states}) == len(states)


def test_counters_do_not_count_as_weights() -> None:
    weights = {"a": torch.ones(2)}
    with_ids = {**weights, "position_ids": torch.arange(3)}
    assert weights_fingerprint(weights) == weights_fingerprint(with_ids)
