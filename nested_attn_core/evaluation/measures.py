"""Figures from embeddings and classifier answers; all inputs are unit-length rows or booleans."""

from __future__ import annotations

import torch
from torch import Tensor


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of all pairs: (n, d), (m, d) -> (n, m)"""
    return a @ b.T


def retrieved(generated: Tensor, gallery: Tensor, right: Tensor) -> Tensor:
    """Whether the nearest gallery row of each generated row is the right one: bool (n,).

    generated (n, d), gallery (m, d), right (n,) int64 rows of the gallery."""
    return similarity(generated, gallery).argmax(1) == right


def normalised_identity(generated: Tensor, first: Tensor, second: Tensor, right: Tensor) -> Tensor:
    """Identity a generated row, (n,): 1 = as alike to its subject's reference as a second real
    picture of that subject is (on average), 0 = as two different subjects are.

    first, second (m, d): embeddings of two real pictures of each of m subjects; the generated rows
    are held against `first`."""
    real = similarity(first, second)
    same = real.diagonal().mean()
    different = (real.sum() - real.diagonal().sum()) / (real.numel() - len(real))
    found = (generated * first[right]).sum(1)
    return (found - different) / (same - different)


def bootstrap_interval(
    values: Tensor, seed: int, draws: int = 2000, level: float = 0.95
) -> list[float]:
    """Interval of the mean of `values` (n,) by resampling with replacement."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, len(values), (draws, len(values)), generator=generator)
    means = values.double()[index].mean(1)
    edge = (1 - level) / 2
    return [round(float(means.quantile(q)), 4) for q in (edge, 1 - edge)]


def bootstrap_ratio_interval(
    above: Tensor, below: Tensor, seed: int, draws: int = 2000, level: float = 0.95
) -> list[float]:
    """Interval of mean(above) / mean(below), both (n,) over the same prompts."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, len(above), (draws, len(above)), generator=generator)
    ratios = above.double()[index].mean(1) / below.double()[index].mean(1).clamp_min(1e-9)
    edge = (1 - level) / 2
    return [round(float(ratios.quantile(q)), 4) for q in (edge, 1 - edge)]
