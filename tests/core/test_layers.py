"""Groups of layers and their weights, and settings on top of settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nested_attn_core.attention import NormControl
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.layers import GROUPS, LayerWeights, layer_groups
from nested_attn_core.masks import product
from nested_attn_core.subject import Subject


def subject(**changes: Any) -> Subject:
    tokens = torch.arange(12.0).reshape(3, 4)
    return replace(Subject("anna", tokens, "person", "person", object(), "abc"), **changes)


def test_groups_go_by_resolution() -> None:
    assert layer_groups({"a": 1, "b": 2, "c": 4, "d": 8, "e": 1}) == {
        "a": "fine", "b": "middle", "c": "middle", "d": "coarse", "e": "fine",
    }  # fmt: skip
    assert layer_groups({"a": 2, "b": 4}) == {"a": "fine", "b": "coarse"}
    assert layer_groups({"a": 4, "b": 4}) == {"a": "middle", "b": "middle"}
    assert layer_groups({}) == {}


@given(st.dictionaries(st.text(), st.sampled_from([1, 2, 4, 8, 16])))
def test_each_site_has_one_of_the_groups(reductions: dict[str, int]) -> None:
    groups = layer_groups(reductions)
    assert groups.keys() == reductions.keys() and set(groups.values()) <= set(GROUPS)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_weights_that_make_no_sense(weight: float) -> None:
    with pytest.raises(NestedAttentionError, match="weight of the fine layers"):
        LayerWeights(fine=weight)


def test_settings_multiply_and_ranges_meet() -> None:
    once = subject(strength=0.5, start_percent=0.2, end_percent=0.8, token_weight=16.0)
    twice = once.adjusted(
        strength=0.5, start_percent=0.1, end_percent=0.6, token_weight=0.5,
        layers=LayerWeights(0.5, 1.0, 0.0), norm=NormControl("none"),
    ).adjusted(layers=LayerWeights(0.5, 0.5, 1.0))  # fmt: skip
    assert (twice.strength, twice.token_weight) == (0.25, 8.0)
    assert (twice.start_percent, twice.end_percent) == (0.2, 0.6)
    assert twice.layers == LayerWeights(0.25, 0.5, 0.0)
    assert twice.norm == NormControl("none")


def test_ranges_that_do_not_meet_leave_no_step() -> None:
    apart = subject(end_percent=0.3).adjusted(start_percent=0.6)
    assert apart.start_percent == apart.end_percent


def test_no_settings_change_nothing() -> None:
    mask = torch.rand(4, 4)
    for before in (subject(), subject(strength=0.3, mask=mask, token_weight=16.0)):
        assert before.adjusted().fingerprint == before.fingerprint
    assert subject().adjusted(mask=mask).fingerprint == subject(mask=mask).fingerprint


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"start_percent": 0.6, "end_percent": 0.4}, "from 0.6 to 0.4"),
        ({"strength": float("nan")}, "strength"),
        ({"token_weight": 0.0}, "token weight"),
        ({"mask": torch.full((2, 2), float("nan"))}, "mask"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(NestedAttentionError, match=says):
        subject(start_percent=0.5).adjusted(**settings)


def test_masks_multiply_at_the_larger_size() -> None:
    left, top = torch.zeros(1, 4, 4), torch.zeros(8, 2)
    left[..., :2], top[:4] = 1, 1
    both = product(left, top)
    assert both is not None and both.shape == (1, 8, 4)
    expected = torch.zeros(8, 4)
    expected[:4, :2] = 1
    assert torch.equal(both[0], expected)
    assert product(None, top) is top and product(left, None) is left
    assert torch.equal(product(left, left * 0.5), left * 0.5)  # type: ignore[arg-type]


def test_frames_of_two_masks_are_used_in_turn() -> None:
    first = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 2, 2)
    second = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2)
    both = product(first, second)
    assert both is not None and both[:, 0, 0].tolist() == [0, 2, 0, 1, 0, 3]


def test_joined_images_are_one_subject() -> None:
    more = subject(tokens=torch.ones(2, 4))
    joined = subject().joined(more)
    assert torch.equal(joined.tokens, torch.cat([more.tokens, subject().tokens]))
    with pytest.raises(NestedAttentionError, match="different encoders"):
        subject().joined(subject(encoder_fingerprint="other"))
