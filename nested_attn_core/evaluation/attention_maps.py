"""What a site's queries choose among the nested tokens, and how far they look at the subject's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention import SiteSubject, nested_attention


def nested_probabilities(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """The nested softmax(q K~^T / sqrt d), mean over heads.

    query (B, N, heads * d), key (1 or B, n, heads * d) -> (B, N, n), rows sum to 1. Equation (1) of
    attention.py, whose rows weigh the nested values."""
    logits = _logits(query, key.to(query).expand(len(query), -1, -1), heads)
    return logits.softmax(-1).mean(1)


def outer_probability(
    query: Tensor, key: Tensor, positions: Tensor, heads: int, token_weight: float = 1.0
) -> Tensor:
    """The share of the outer attention that falls on the subject's tokens, mean over heads.

    query (B, N, heads * d), key (B, T, heads * d), positions (B, P) int64, -1 for an empty slot;
    token_weight multiplies the odds of these tokens -> (B, N)."""
    rows = torch.arange(key.shape[1], device=key.device)
    here = (positions.to(key.device)[:, :, None] == rows).any(1)
    odds = torch.where(here, token_weight, 1.0).log()
    share = (_logits(query, key, heads) + odds[:, None, None].to(query)).softmax(-1)
    return (share * here[:, None, None]).sum(-1).mean(1)


def _logits(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """(B, heads, N, T) in fp32"""
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
    return q @ k.mT * q.shape[-1] ** -0.5


@dataclass(frozen=True)
class Marked:
    """A subject together with the name of the site that it is at."""

    site: str
    subject: SiteSubject


@dataclass
class Recorder:
    """Takes the place of nested_attention for Marked items and keeps what it sees, one entry a
    call: by site, nested (B, N, n) and outer (B, N)."""

    nested: dict[str, list[Tensor]] = field(default_factory=dict)
    outer: dict[str, list[Tensor]] = field(default_factory=dict)

    def __call__(
        self,
        base: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        items: Sequence[Marked],
        heads: int,
    ) -> Tensor:
        """The result of nested_attention, unchanged."""
        for item in items:
            subject = item.subject
            nested = nested_probabilities(query, subject.key, heads)
            outer = outer_probability(query, key, subject.positions, heads, subject.token_weight)
            self.nested.setdefault(item.site, []).append(nested.cpu())
            self.outer.setdefault(item.site, []).append(outer.cpu())
        return nested_attention(base, query, key, value, [item.subject for item in items], heads)

    def means(self, site: str) -> tuple[Tensor, Tensor]:
        """Nested (B, N, n) and outer (B, N) at a site, mean over all calls."""
        return torch.stack(self.nested[site]).mean(0), torch.stack(self.outer[site]).mean(0)


def square(values: Tensor) -> Tensor:
    """(N, ...) of the queries of a square feature map -> (side, side, ...), row by row."""
    side = round(len(values) ** 0.5)
    if side * side != len(values):
        raise ValueError(f"{len(values)} queries are no square feature map; give a square image.")
    return values.reshape(side, side, *values.shape[1:])


def spread(nested: Tensor, weight: Tensor) -> float:
    """How far the choice depends on the query: mutual information of query and nested token, as a
    share of its largest possible value, log of the number of tokens.

    nested (N, n) rows that sum to 1, weight (N,) how much each query counts. 0: every query chooses
    alike, as a single token would be; 1: each query one token, all tokens used."""
    share = (weight / weight.sum()).double()[:, None]
    rows = nested.double()
    mean = (share * rows).sum(0)
    gained = _entropy(mean[None])[0] - (share[:, 0] * _entropy(rows)).sum()
    return float(gained / max(torch.log(torch.tensor(float(nested.shape[1]))).item(), 1e-9))


def _entropy(rows: Tensor) -> Tensor:
    return -(rows * rows.clamp_min(1e-30).log()).sum(-1)
