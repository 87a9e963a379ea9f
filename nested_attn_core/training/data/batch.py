"""What a training step gets, and what it is computed with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """One caption as the base reads it.

    context (T, c); pooled (p,) or None; positions (P,) int64, the context's rows that are the
    subject's tokens (empty where the caption names none)
    """

    context: Tensor
    pooled: Tensor | None
    positions: Tensor


@dataclass(frozen=True)
class Encoders:
    """The frozen models, as callables; they run where and as they like and return CPU tensors.

    latents       pictures (b, H, W, 3) float in 0..1 to latents (b, C, h, w), as the UNet takes
                  them (the base's own scale applied)
    vision        pictures (b, H, W, 3) float in 0..1 of any size to features (b, L, d), by the
                  very call of the Encode Subject node
    text          captions that name the subject as example.PLACEHOLDER, to one TextFeatures each
    fingerprints  of what each depends on ("latents", "vision", "text"): weights, class word,
                  precision; another fingerprint computes anew
    """

    latents: Callable[[Tensor], Tensor]
    vision: Callable[[Tensor], Tensor]
    text: Callable[[Sequence[str]], Sequence[TextFeatures]]
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Batch:
    """Examples of one step; reference and target show the same subject. CPU, fp32.

    latents    (B, C, h, w) of the target
    vision     (B, L, d) of the reference
    context    (B, T, c) of the target's caption; pooled (B, p) or None
    positions  (B, P) int64, the subject's rows of the context, -1 for an empty slot
    mask       (B, 1, h, w) in 0..1, the subject in the target; None where no example has one
    sizes      (B, 6) int64 for SDXL: original height and width, top and left of the cut, height
               and width of the training picture
    targets, references  rows of the source; captions, identities as in Example
    """

    latents: Tensor
    vision: Tensor
    context: Tensor
    pooled: Tensor | None
    positions: Tensor
    mask: Tensor | None
    sizes: Tensor
    targets: tuple[int, ...]
    references: tuple[int, ...]
    captions: tuple[str, ...]
    identities: tuple[str, ...]


def stack_text(rows: Sequence[TextFeatures]) -> tuple[Tensor, Tensor | None, Tensor]:
    """(context, pooled, positions) of a batch.

    Contexts of unequal length are repeated up to a common one, as the host does while sampling;
    the subject's tokens are then in every copy.
    """
    length = math.lcm(*(len(row.context) for row in rows))
    context = torch.stack([row.context.repeat(length // len(row.context), 1) for row in rows])
    found = [
        [place for p in row.positions.tolist() for place in range(p, length, len(row.context))]
        for row in rows
    ]
    width = max(1, *map(len, found))
    positions = torch.tensor([[*row, *[-1] * (width - len(row))] for row in found])
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return (
        context.float(),
        torch.stack(pooled).float() if len(pooled) == len(rows) else None,
        positions,
    )
