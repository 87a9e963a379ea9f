"""Whether a method's point lies beyond another's curve, on curves that can be done by hand."""

from __future__ import annotations

import pytest

from nested_attn_core.evaluation.frontier import along, best_within, beyond


def point(strength: float, identity: float, prompt: float, reach: float = 0.02) -> dict:
    return {
        "strength": strength,
        "identity": identity,
        "identity_ci": [identity - reach, identity + reach],
        "prompt_relative": prompt,
        "prompt_relative_ci": [prompt - reach, prompt + reach],
    }


CURVE = [point(1.0, 0.8, 0.9), point(0.0, 0.0, 1.0)]


def test_the_curve_goes_straight_from_strength_to_strength():
    places = list(along(CURVE))
    assert (places[0]["identity"], places[-1]["identity"]) == (0.0, 0.8)
    middle = places[len(places) // 2]
    assert middle["identity"] == pytest.approx(0.4)
    assert middle["prompt_relative"] == pytest.approx(0.95)
    assert middle["identity_ci"] == pytest.approx([0.38, 0.42])


@pytest.mark.parametrize(
    ("identity", "prompt", "expected"),
    [
        (0.4, 0.95, False),  # on the curve, between its points
        (0.3, 0.9, False),  # below
        (0.45, 0.97, False),  # above, but within the intervals of both
        (0.6, 0.98, True),
        (0.4, 1.1, True),  # the prompt better than anywhere on the curve
        (0.9, 0.9, True),  # identity higher than anywhere on the curve
    ],
)
def test_beyond_means_better_than_every_place_outside_the_intervals(identity, prompt, expected):
    assert beyond(point(1.0, identity, prompt), CURVE) is expected


def test_wide_intervals_take_the_verdict_back():
    assert beyond(point(1.0, 0.6, 0.98), CURVE)
    assert not beyond(point(1.0, 0.6, 0.98, reach=0.2), CURVE)


def test_the_best_point_is_of_those_that_keep_the_prompt():
    curve = [point(0.5, 0.5, 0.97), point(0.8, 0.6, 0.95), point(1.0, 0.8, 0.94)]
    best = best_within(curve, 0.95)
    assert best is not None and best["strength"] == 0.8
    assert best_within(curve, 0.99) is None
