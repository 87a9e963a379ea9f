"""Cross-attention in which the odds of chosen rows of the context are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Rows of the context and what multiplies their odds in the attention map.

    positions  (B, P) int64, -1 for an empty slot
    odds       (B, P) float, at least 0: log(odds) is added to the logits, so that 1 changes
               nothing and 0 hides the row
    """

    positions: Tensor
    odds: Tensor


def weigh_columns(
    base: Tensor, query: Tensor, key: Tensor, value: Tensor, items: Sequence[Columns], heads: int
) -> Tensor:
    """softmax(q K^T / sqrt d + sum of log odds) V, in base's dtype.

    base, query (B, N, heads * d), key and value (B, T, heads * d). This is the outer attention of
    nested attention with its token weight, v* being the row's own value. Rows of the batch whose
    odds are all 1 come back from `base` bit for bit.
    """
    bias = query.new_zeros(key.shape[:2])
    for item in items:
        filled = item.positions >= 0
        added = torch.where(filled, item.odds, 1).log().to(bias)
        bias = bias.scatter_add(1, item.positions.clamp_min(0).to(bias.device), added)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None])
    out = out.transpose(1, 2).flatten(2).to(base.dtype)
    return torch.where((bias != 0).any(1)[:, None, None], out, base)
