"""Baseline: decoupled cross-attention as in IP-Adapter (arXiv 2308.06721, Sec. 3.2, Eq. 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...encoder import NestedEncoder
from ...training.methods import Attend, Injection, Method


@dataclass(frozen=True)
class ImageTokens:
    """One subject at one site: keys and values (B, n, heads * d), present (B,) bool, its scale, and
    the columns of a square feature map, as shares of its width, outside which it is masked."""

    key: Tensor
    value: Tensor
    present: Tensor
    scale: float
    columns: tuple[float, float] = (0.0, 1.0)


def add_image_attention(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    items: Sequence[ImageTokens],
    heads: int,
) -> Tensor:
    """base + sum of scale * softmax(q K'^T / sqrt d) V', on every query, in base's dtype.

    base, query (B, N, heads * d); the text's own keys and values take no part. Rows in which no
    subject is present come back bit for bit.
    """
    out = base
    for item in items:
        q, k, v = (
            t.to(query).unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in (query, item.key, item.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        scale = item.present.to(seen)[:, None, None] * item.scale
        if item.columns != (0.0, 1.0):
            scale = scale * _mask(item.columns, query)
        out = out + (scale * seen).to(base.dtype)
    return out


def _mask(columns: tuple[float, float], query: Tensor) -> Tensor:
    """(1, N, 1) for the N queries of a square feature map: how much of each lies within."""
    side = math.isqrt(query.shape[1])
    edges = torch.arange(side + 1, device=query.device, dtype=query.dtype) / side
    inside = edges.clamp(*columns)
    return ((inside[1:] - inside[:-1]) * side).repeat(side)[None, :, None]


class Decoupled(Method):
    """Image tokens with a softmax of their own, added at every query with scale = strength.

    Parameters are those of a nested encoder, projections from the base's own to_k and to_v included
    (as IP-Adapter initialises its own). It knows no token, and so no token weight.
    """

    attend: ClassVar[Attend] = staticmethod(add_image_attention)

    def __init__(self, encoder: NestedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        if strength == 0:
            return Injection(context, {})
        present = (positions >= 0).any(1)
        projected = self.encoder.keys_values(self.encoder(features))
        return Injection(
            context,
            {
                site: [ImageTokens(key, value, present, strength)]
                for site, (key, value) in projected.items()
            },
        )


class Placed(Method):
    """A decoupled subject that acts in some columns of the picture only, as peers' masks do it."""

    attend: ClassVar[Attend] = staticmethod(add_image_attention)

    def __init__(self, inner: Decoupled, columns: tuple[float, float]) -> None:
        super().__init__()
        self.inner = inner
        self.columns = columns

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        found = self.inner(features, context, positions, strength)
        placed = {
            site: [replace(item, columns=self.columns) for item in items]
            for site, items in found.sites.items()
        }
        return Injection(found.context, placed)
