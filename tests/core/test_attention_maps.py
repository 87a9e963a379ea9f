"""The maps of the attention study against a dense formula, head by head and query by query."""

from __future__ import annotations

import math

import pytest
import torch

from nested_attn_core.attention import NormControl, SiteSubject, nested_attention
from nested_attn_core.evaluation.attention_maps import (
    Marked,
    Recorder,
    nested_probabilities,
    outer_probability,
    spread,
    square,
)

BATCH, QUERIES, TOKENS, NESTED, HEADS, WIDTH = 2, 9, 7, 5, 2, 8


@pytest.fixture
def site() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 2

    return {
        "query": draw(BATCH, QUERIES, WIDTH),
        "key": draw(BATCH, TOKENS, WIDTH),
        "value": draw(BATCH, TOKENS, WIDTH),
        "nested_key": draw(BATCH, NESTED, WIDTH),
        "nested_value": draw(BATCH, NESTED, WIDTH),
    }


def dense(query: torch.Tensor, key: torch.Tensor, odds: list[float]) -> list[float]:
    """Mean over heads of odds-weighted exp(q k / sqrt d), for one query: one number a key."""
    size = WIDTH // HEADS
    mean = [0.0] * len(key)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        weights = [
            odds[row] * math.exp(float(query[part] @ key[row, part]) / math.sqrt(size))
            for row in range(len(key))
        ]
        mean = [m + w / sum(weights) / HEADS for m, w in zip(mean, weights, strict=True)]
    return mean


def test_nested_probabilities_are_the_nested_softmax(site):
    found = nested_probabilities(site["query"], site["nested_key"], HEADS)
    assert found.shape == (BATCH, QUERIES, NESTED)
    for row in range(BATCH):
        for query in range(QUERIES):
            expected = dense(site["query"][row, query], site["nested_key"][row], [1.0] * NESTED)
            assert found[row, query].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_set_of_nested_keys_serves_all_rows(site):
    shared = site["nested_key"][:1]
    found = nested_probabilities(site["query"], shared, HEADS)
    repeated = nested_probabilities(site["query"], shared.repeat(BATCH, 1, 1), HEADS)
    torch.testing.assert_close(found, repeated)


def test_outer_probability_counts_every_token_of_the_subject_with_its_odds(site):
    positions = torch.tensor([[2, 4], [3, -1]])
    found = outer_probability(site["query"], site["key"], positions, HEADS, token_weight=6.0)
    for row, own in enumerate(([2, 4], [3])):
        odds = [6.0 if token in own else 1.0 for token in range(TOKENS)]
        for query in range(QUERIES):
            shares = dense(site["query"][row, query], site["key"][row], odds)
            expected = sum(shares[token] for token in own)
            assert float(found[row, query]) == pytest.approx(expected, abs=1e-5)


def test_a_recorder_changes_nothing_and_keeps_the_mean_of_its_calls(site):
    subject = SiteSubject(
        site["nested_key"],
        site["nested_value"],
        torch.tensor([[1], [5]]),
        norm=NormControl("none"),
        token_weight=3.0,
    )
    base = torch.nn.functional.scaled_dot_product_attention(
        *(
            site[name].unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
    )
    base = base.transpose(1, 2).flatten(2)
    recorder = Recorder()
    given = base, site["query"], site["key"], site["value"]
    out = recorder(*given, [Marked("middle.0.0", subject)], HEADS)
    assert torch.equal(out, nested_attention(*given, [subject], HEADS))
    assert not torch.equal(out, base)
    recorder(base, -site["query"], *given[2:], [Marked("middle.0.0", subject)], HEADS)
    nested, outer = recorder.means("middle.0.0")
    twice = [
        nested_probabilities(query, site["nested_key"], HEADS)
        for query in (site["query"], -site["query"])
    ]
    torch.testing.assert_close(nested, (twice[0] + twice[1]) / 2)
    assert outer.shape == (BATCH, QUERIES)


def test_a_square_map_is_laid_out_row_by_row():
    assert square(torch.arange(9)).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert square(torch.zeros(16, 3)).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="10 queries"):
        square(torch.arange(10))


def test_spread_is_0_for_one_choice_of_all_queries_and_1_for_a_choice_each():
    ones = torch.ones(4)
    assert spread(torch.tensor([[0.7, 0.3]]).expand(4, 2), ones) == pytest.approx(0, abs=1e-6)
    assert spread(torch.eye(4), ones) == pytest.approx(1)
    # A query that does not look at the subject does not count.
    weight = torch.tensor([1.0, 0, 0, 0])
    assert spread(torch.eye(4), weight) == pytest.approx(0, abs=1e-6)
