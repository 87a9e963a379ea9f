"""A map of the image that is read at one site after another, each with a resolution of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


class RunningMap:
    """Exponential mean over the sites seen so far: after K sites with maps m_1 ... m_K,

        mean = (w a^K m_0 + sum_k a^(K - k) m_k) / (w a^K + sum_k a^(K - k)),     a = smoothing

    Every map is kept at the resolution of its site and brought to the one that is asked for, so
    that what a fine site saw is not blurred by a coarse one after it.

    smoothing   0 to below 1; 0 keeps the last map only
    before      m_0 (B, h, w), what the step before ended with, if there was one. Its weight w is
                1 / (1 - a): as if it had been seen at all sites before
    """

    def __init__(self, smoothing: float, before: Tensor | None = None) -> None:
        self._decay = smoothing
        self._sums: dict[Size, Tensor] = {}
        self._weight = 0.0
        if before is not None:
            self._weight = 1 / (1 - smoothing)
            self._sums[_size(before)] = before * self._weight

    def add(self, values: Tensor) -> None:
        """The map of one more site, (B, h, w)."""
        self._sums = {size: sums * self._decay for size, sums in self._sums.items()}
        self._weight = self._weight * self._decay + 1
        before = self._sums.get(_size(values))
        self._sums[_size(values)] = values if before is None else before + values

    def at(self, size: Size, rows: slice = slice(None)) -> Tensor:
        """The mean on a feature map of `size`, (B, *size) or some rows of it, once a map has been
        added."""
        parts = [resized(sums[rows], size) for sums in self._sums.values()]
        return torch.stack(parts).sum(0) / self._weight

    @property
    def finest(self) -> Size:
        """The largest size that has been added."""
        return max(self._sums, key=lambda size: size[0] * size[1])


def resized(values: Tensor, size: Size) -> Tensor:
    """(B, h, w) -> (B, *size): each cell takes the mean of all that it touches, both maps lying
    over the whole image."""
    return values if _size(values) == size else functional.adaptive_avg_pool2d(values, size)


def _size(values: Tensor) -> Size:
    return int(values.shape[-2]), int(values.shape[-1])
