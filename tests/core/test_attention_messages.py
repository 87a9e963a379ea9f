"""What nested_attention and its parts say to input that does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nested_attn_core.attention import NormControl, SiteSubject, nested_attention
from nested_attn_core.errors import NestedAttentionError

SUBJECT = SiteSubject(torch.ones(1, 3, 8), torch.ones(1, 3, 8), torch.tensor([[1], [2]]))


def attend(subject: SiteSubject = SUBJECT, **changes) -> torch.Tensor:
    parts = {
        "base": torch.ones(2, 4, 8),
        "query": torch.ones(2, 4, 8),
        "key": torch.ones(2, 5, 8),
        "value": torch.ones(2, 5, 8),
        "heads": 2,
    }
    return nested_attention(subjects=[subject], **{**parts, **changes})


def test_the_unchanged_input_is_accepted() -> None:
    assert attend().shape == (2, 4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "3 heads divide"),
        ({"query": torch.ones(2, 8)}, r"The query has shape \(2, 8\)"),
        ({"base": torch.ones(4, 4, 8)}, "a patch before this one changed it"),
        ({"key": torch.ones(2, 6, 8)}, r"\(2, tokens, 8\) to fit the query"),
        ({"key": torch.ones(1, 5, 8), "value": torch.ones(1, 5, 8)}, "to fit the query"),
    ],
)
def test_a_context_that_does_not_fit(changes, message) -> None:
    with pytest.raises(NestedAttentionError, match=message):
        attend(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": torch.ones(1, 3, 6)}, "nested keys .* belongs to another model"),
        ({"value": torch.ones(3, 3, 8)}, r"nested values .* needs \(1 or 2, tokens, 8\)"),
        ({"key": torch.ones(1, 4, 8)}, "4 nested keys and 3 nested values"),
        ({"key": torch.ones(1, 0, 8), "value": torch.ones(1, 0, 8)}, "at least one"),
        ({"positions": torch.tensor([[1]])}, "one row of slots for each of the 2 rows"),
        ({"positions": torch.tensor([[1], [5]])}, "bound to token 5 of a context of 5 tokens"),
        ({"positions": torch.tensor([[1, 1], [2, 3]])}, "bound twice"),
        ({"mask": torch.ones(1, 5)}, r"needs \(1 or 2, 4\)"),
        ({"mask": torch.ones(4)}, r"needs \(1 or 2, 4\)"),
    ],
)
def test_a_subject_that_does_not_fit(changes, message) -> None:
    with pytest.raises(NestedAttentionError, match=message):
        attend(replace(SUBJECT, **changes))


def test_two_subjects_on_one_token() -> None:
    with pytest.raises(NestedAttentionError, match="bound twice"):
        nested_attention(
            torch.ones(2, 4, 8), torch.ones(2, 4, 8), torch.ones(2, 5, 8), torch.ones(2, 5, 8),
            [SUBJECT, SUBJECT], 2,
        )  # fmt: skip


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number(number) -> None:
    with pytest.raises(NestedAttentionError, match="The strength is (nan|inf); give a finite"):
        replace(SUBJECT, strength=number)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_token_weight_without_a_logarithm(number) -> None:
    with pytest.raises(NestedAttentionError, match="finite number above 0"):
        replace(SUBJECT, token_weight=number)


def test_norm_controls_that_make_no_sense() -> None:
    with pytest.raises(NestedAttentionError, match='"loud" is unknown; use "none" or "text"'):
        NormControl("loud")  # type: ignore[arg-type]
    for factor in (-1.0, float("nan")):
        with pytest.raises(NestedAttentionError, match="at least 0"):
            NormControl("text", factor)
