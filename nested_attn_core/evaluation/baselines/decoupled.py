"""Baseline: decoupled cross-attention as in IP-Adapter (arXiv 2308.06721, Sec. 3.2, Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...encoder import NestedEncoder
from ...training.methods import Attend, Injection, Method


@dataclass(frozen=True)
class ImageTokens:
    """One subject at one site: keys and values (B, n, heads * d), present (B,) bool, its scale."""

    key: Tensor
    value: Tensor
    present: Tensor
    scale: float


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
        out = out + (scale * seen).to(base.dtype)
    return out


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
