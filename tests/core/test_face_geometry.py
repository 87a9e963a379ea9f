"""Squares around faces, against the published alignment of FFHQ written with complex numbers, and
cuts, against slices and against a dense sum."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nested_attn_core.face_geometry import (
    FFHQ_MARGIN,
    Face,
    Square,
    covered,
    cut,
    share_outside,
    square_around,
)

coordinate = st.floats(-50, 500)
place = st.builds(complex, coordinate, coordinate)


def face_of(points: list[complex]) -> Face:
    left, right, mouth_left, mouth_right = ((point.real, point.imag) for point in points)
    return Face((3, 5, 8, 6), (left, right), (mouth_left, mouth_right), 1.0)


def ffhq(left: complex, right: complex, mouth_left: complex, mouth_right: complex):
    """Centre of the quad, and half of its edge to the right."""
    middle = (left + right) / 2
    across, down = right - left, (mouth_left + mouth_right) / 2 - middle
    # With y down, multiplying by 1j turns clockwise as one sees it, from right to down.
    direction = across + down / 1j
    half = direction / abs(direction) * max(abs(across) * 2, abs(down) * 1.8)
    return middle + down * 0.1, half


@given(st.lists(place, min_size=4, max_size=4))
def test_the_aligned_square_is_that_of_ffhq(points: list[complex]) -> None:
    across = points[1] - points[0]
    down = (points[2] + points[3] - points[0] - points[1]) / 2
    assume(abs(across + down / 1j) > 1e-3)
    square = square_around(face_of(points), FFHQ_MARGIN, True)
    center, half = ffhq(*points)
    assert complex(*square.center) == pytest.approx(center, abs=1e-9)
    assert complex(*square.right) == pytest.approx(half, rel=1e-9, abs=1e-9)


@given(
    st.floats(0.2, 5), st.floats(-math.pi, math.pi), place, st.floats(0, 2), st.integers(0, 2**31)
)
def test_a_square_moves_with_its_face(
    scale: float, angle: float, shift: complex, margin: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    jitter = torch.randn(4, 2, generator=generator, dtype=torch.float64) * 4
    points = [
        complex(x, y) + complex(*jitter[index].tolist())
        for index, (x, y) in enumerate([(40, 40), (80, 40), (45, 85), (75, 85)])
    ]
    turn = cmath.rect(scale, angle)
    before = square_around(face_of(points), margin, True)
    after = square_around(face_of([turn * point + shift for point in points]), margin, True)
    assert complex(*after.center) == pytest.approx(turn * complex(*before.center) + shift, abs=1e-6)
    assert complex(*after.right) == pytest.approx(turn * complex(*before.right), abs=1e-6)


@given(place, st.floats(0, 2), st.booleans())
def test_without_alignment_or_with_points_in_one_place_it_is_around_the_box(
    point: complex, margin: float, align: bool
) -> None:
    points = [point] * 4 if align else [point, point + 30, point + 40j, point + 30 + 20j]
    square = square_around(face_of(points), margin, align)
    assert square.center == (7, 8)
    assert square.side == pytest.approx(8 * (1 + 2 * margin)) and square.degrees == 0


def image_of(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


@given(st.integers(-8, 20), st.integers(-8, 16), st.integers(1, 24), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_an_upright_square_is_a_slice_with_borders(
    left: int, top: int, size: int, factor: int
) -> None:
    """At whole pixels; a larger one is the mean of its pixels."""
    image, border = image_of(19, 23), 0.25
    side = size * factor
    square = Square((left + side / 2, top + side / 2), (side / 2, 0.0))
    wide = torch.full((19 + 300, 23 + 300, 3), border)
    wide[150:169, 150:173] = image
    part = wide[150 + top : 150 + top + side, 150 + left : 150 + left + side]
    expected = part.reshape(size, factor, size, factor, 3).mean((1, 3))
    assert (cut(image, square, size, border) - expected).abs().max() < 2e-5
    assert covered(square, 19, 23).sum() == (max(0, min(left + side, 23) - max(left, 0))) * (
        max(0, min(top + side, 19) - max(top, 0))
    )


@given(st.floats(-180, 180), st.floats(2, 12), st.floats(-5, 25), st.floats(-5, 25))
@settings(max_examples=20, deadline=None)
def test_a_turned_cut_is_the_mean_of_bilinear_samples(
    degrees: float, half: float, x: float, y: float
) -> None:
    image, size, border = image_of(17, 21), 5, 0.5
    turn = cmath.rect(half, math.radians(degrees))
    found = cut(image, Square((x, y), (turn.real, turn.imag)), size, border)
    count = math.ceil(2 * half / size - 1e-6)
    expected = torch.zeros(size, size, 3)
    for row in range(size * count):
        for column in range(size * count):
            across = complex(column + 0.5, row + 0.5) * 2 / (size * count) - (1 + 1j)
            place = complex(x, y) + across * turn - (0.5 + 0.5j)
            expected[row // count, column // count] += bilinear(image, place, border)
    assert (found - expected / count**2).abs().max() < 1e-4


def bilinear(image: torch.Tensor, place: complex, border: float) -> torch.Tensor:
    x, y = math.floor(place.real), math.floor(place.imag)
    right, down = place.real - x, place.imag - y
    value = torch.zeros(3)
    for i, j, weight in (
        (y, x, (1 - right) * (1 - down)),
        (y, x + 1, right * (1 - down)),
        (y + 1, x, (1 - right) * down),
        (y + 1, x + 1, right * down),
    ):
        inside = 0 <= i < image.shape[0] and 0 <= j < image.shape[1]
        value += weight * (image[i, j] if inside else torch.full((3,), border))
    return value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_cuts_are_fp32_and_stay_in_range(dtype: torch.dtype) -> None:
    image = image_of(40, 30).round().to(dtype)
    for degrees in (0.0, 33.0):
        turn = cmath.rect(31.0, math.radians(degrees))
        found = cut(image, Square((11.0, 22.0), (turn.real, turn.imag)), 24, 128 / 255)
        assert found.dtype == torch.float32 and found.shape == (24, 24, 3)
        assert found.min() >= 0 and found.max() <= 1 + 1e-6


def test_a_square_of_a_huge_picture_takes_bounded_memory() -> None:
    found = cut(image_of(50, 50), Square((25.0, 25.0), (1e6, 0.0)), 64, 0.5)
    assert (found - 0.5).abs().max() < 1e-3


def test_what_lies_outside() -> None:
    assert share_outside(Square((10.0, 10.0), (10.0, 0.0)), 20, 20) == 0
    assert share_outside(Square((0.0, 10.0), (10.0, 0.0)), 20, 20) == pytest.approx(0.5)
    assert share_outside(Square((-90.0, 10.0), (10.0, 0.0)), 20, 20) == 1
    # Turned by 45 degrees, its four corners reach out.
    half = 10 / 2**0.5
    outside = share_outside(Square((10.0, 10.0), (half, half)), 20, 20)
    assert outside == pytest.approx(4 * (2**0.5 - 1) ** 2 * 100 / 400, abs=0.01)
    assert covered(Square((10.0, 10.0), (10.0, 10.0)), 20, 20).mean() == 1
    assert covered(Square((10.0, 10.0), (5.0, 5.0)), 20, 20).mean() == pytest.approx(0.5, abs=0.06)
