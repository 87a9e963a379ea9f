"""The identity-prompt plane: whether a point of one method lies beyond the curve of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]
FINENESS = 50
NUMBERS = ("identity", "prompt_relative")


def beyond(point: Point, curve: Sequence[Point]) -> bool:
    """Whether `point` is better than all of `curve`, outside the intervals.

    Points have identity, identity_ci, prompt_relative and prompt_relative_ci; the curve goes in
    straight lines from point to point, and so do its intervals. A point is not beyond the curve
    where some place on the curve is at least as good in both measures, within the intervals of
    both; so at equal prompt alignment it has no higher identity there, and the reverse."""
    return not any(_holds(place, point) for place in along(curve))


def along(curve: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """Places on the curve, in order of strength, its points among them."""
    ordered = sorted(curve, key=lambda point: point["strength"])
    for first, second in zip(ordered, ordered[1:], strict=False):
        for part in range(FINENESS):
            yield _between(first, second, part / FINENESS)
    yield _between(ordered[-1], ordered[-1], 0.0)


def best_within(curve: Sequence[Point], prompt_relative: float) -> Point | None:
    """The measured point of highest identity of those with at least that prompt alignment."""
    fitting = [point for point in curve if point["prompt_relative"] >= prompt_relative]
    return max(fitting, key=lambda point: point["identity"], default=None)


def _holds(place: Point, point: Point) -> bool:
    return all(place[f"{name}_ci"][1] >= point[f"{name}_ci"][0] for name in NUMBERS)


def _between(first: Point, second: Point, share: float) -> dict[str, Any]:
    def mixed(a: float, b: float) -> float:
        return a + share * (b - a)

    place: dict[str, Any] = {}
    for name in NUMBERS:
        place[name] = mixed(first[name], second[name])
        ends = zip(first[f"{name}_ci"], second[f"{name}_ci"], strict=True)
        place[f"{name}_ci"] = [mixed(a, b) for a, b in ends]
    return place
