"""Times several ways of doing one thing in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of each round: on the clock, and of the processor where the work runs on it."""

    wall: tuple[float, ...]
    busy: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        return statistics.median(self.busy) * 1e3

    @property
    def wall_milliseconds(self) -> float:
        return statistics.median(self.wall) * 1e3

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median: the noise."""
        low, middle, high = statistics.quantiles(self.busy, n=4)
        return (high - low) / 2 / middle


def compare(
    forms: Mapping[str, Callable[[], Any]],
    seconds: float,
    fewest: int = 3,
    most: int = 25,
    wait: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Rounds of all forms in turns, for about so many seconds; an unmeasured one comes first.

    wait: what waits for a device. Times are then those of the clock, for what the processor does
    says nothing about the device.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    first = time.perf_counter()
    for round_number in range(most + 1):
        for name, form in forms.items():
            wall, busy = time.perf_counter(), time.process_time()
            form()
            if wait is not None:
                wait()
            spent = time.perf_counter() - wall
            if round_number:
                both = spent, spent if wait is not None else time.process_time() - busy
                taken[name].append(both)
        if round_number >= fewest and time.perf_counter() - first > seconds:
            break
    return {
        name: Timing(tuple(wall for wall, _ in each), tuple(busy for _, busy in each))
        for name, each in taken.items()
    }


def ratio(timings: Mapping[str, Timing], one: str, other: str) -> float:
    """Median over the rounds of one form's time by another's in the same round."""
    pairs = zip(timings[one].busy, timings[other].busy, strict=True)
    return statistics.median(a / b for a, b in pairs)
