"""How the loss of a training goes, and whether it is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Course:
    """The loss, smoothed over some 50 steps; its first value, and the lowest since.

    A rate that is too high shows late: the loss falls for a thousand steps and is back where it
    began within a hundred. Half of the way back counts as lost, where it is no mere flutter about
    the lowest value (half as much again). `doubtful` says so earlier, at half of that."""

    first: float = math.nan
    lowest: float = math.inf
    smooth: float = math.nan

    def add(self, value: float) -> None:
        if math.isnan(self.smooth):
            self.first = self.smooth = value
        else:
            self.smooth = 0.98 * self.smooth + 0.02 * value
        self.lowest = min(self.lowest, self.smooth)

    @property
    def lost(self) -> bool:
        return self._climbed(0.5)

    @property
    def doubtful(self) -> bool:
        return self._climbed(0.25)

    def _climbed(self, share: float) -> bool:
        way = self.first - self.lowest
        return self.smooth > max(self.lowest + share * way, self.lowest * (1 + share))
