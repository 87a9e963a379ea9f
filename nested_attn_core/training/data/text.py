"""Encoded captions of unequal length as one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..batches import Text


def stack_text(rows: Sequence[Text]) -> tuple[Tensor, Tensor | None, Tensor]:
    """context (B, T, c), pooled (B, p) or None, and positions (B, P) int64 with -1 for no token.

    Contexts of unequal length are repeated up to a common one, as the host does while sampling;
    the subject's tokens are then in every copy.
    """
    length = math.lcm(*(len(row.context) for row in rows))
    context = torch.stack([_repeated(row.context, length) for row in rows])
    found = [
        [place for position in row.positions for place in range(position, length, len(row.context))]
        for row in rows
    ]
    width = max(1, *map(len, found))
    positions = torch.tensor([[*row, *[-1] * (width - len(row))] for row in found])
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return context, torch.stack(pooled) if len(pooled) == len(rows) else None, positions


def _repeated(context: Tensor, length: int) -> Tensor:
    return context if len(context) == length else context.repeat(length // len(context), 1)
