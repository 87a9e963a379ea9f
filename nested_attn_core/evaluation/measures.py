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


def pairwise_distance(pictures: Tensor) -> Tensor:
    """Mean over all pairs of the root mean square difference: pictures (n, ...) -> scalar."""
    flat = pictures.flatten(1).double()
    rows, columns = torch.triu_indices(len(flat), len(flat), 1)
    return (flat[rows] - flat[columns]).square().mean(1).sqrt().mean()


def bootstrap_interval(
    values: Tensor,
    seed: int,
    subjects: Tensor | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> list[float]:
    """Interval of the mean of `values` (n,) by resampling with replacement.

    subjects (n,) int64: pictures of one subject are drawn or left out together, since they are
    not independent; each value by itself where None."""
    return bootstrap_ratio_interval(values, torch.ones_like(values), seed, subjects, draws, level)


def bootstrap_ratio_interval(
    above: Tensor,
    below: Tensor,
    seed: int,
    subjects: Tensor | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> list[float]:
    """Interval of sum(above) / sum(below), both (n,) over the same pictures."""
    generator = torch.Generator().manual_seed(seed)
    tops, bottoms = _per_subject(above, subjects), _per_subject(below, subjects)
    index = torch.randint(0, len(tops), (draws, len(tops)), generator=generator)
    ratios = tops[index].sum(1) / bottoms[index].sum(1).clamp_min(1e-9)
    edge = (1 - level) / 2
    return [round(float(ratios.quantile(q)), 4) for q in (edge, 1 - edge)]


def _per_subject(values: Tensor, subjects: Tensor | None) -> Tensor:
    """Sums by subject, float64."""
    if subjects is None:
        return values.double()
    _, group = subjects.unique(return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    return sums.index_add(0, group, values.double())
