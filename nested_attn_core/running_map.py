"""A map of the image that is read at one site after another, each with a resolution of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


class RunningMap:
    """Exponential mean over the sites seen so far: after K sites with maps m_1 ... m_K,

        mean = sum_k a^(K - k) m_k / sum_k a^(K - k),         a = smoothing

    Every map is kept at the resolution of its site and brought to the one that is asked for, so
    that what a fine site saw is not blurred by a coarse one after it.

    smoothing   0 to below 1; 0 keeps the last map only
    """

    def __init__(self, smoothing: float) -> None:
        self._decay = smoothing
        self._sums: dict[Size, Tensor] = {}
        self._weight = 0.0

    def add(self, values: Tensor) -> None:
        """The map of one more site, (B, h, w)."""
        self._sums = {size: sums * self._decay for size, sums in self._sums.items()}
        self._weight = self._weight * self._decay + 1
        size = int(values.shape[-2]), int(values.shape[-1])
        before = self._sums.get(size)
        self._sums[size] = values if before is None else before + values

    def at(self, size: Size) -> Tensor:
        """The mean on a feature map of `size`, (B, *size), once a map has been added."""
        parts = [resized(sums, size) for sums in self._sums.values()]
        return torch.stack(parts).sum(0) / self._weight


def resized(values: Tensor, size: Size) -> Tensor:
    """(B, h, w) -> (B, *size): each cell takes the mean of all that it touches, both maps lying
    over the whole image."""
    if values.shape[-2:] == torch.Size(size):
        return values
    return functional.adaptive_avg_pool2d(values, size)
