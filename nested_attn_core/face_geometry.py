"""Where a face lies in a picture, and a square cut around it.

Pixels throughout: x to the right, y down, the first pixel covering 0 to 1 in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Point = tuple[float, float]

# An aligned square of half this margin on each side is that of FFHQ.
FFHQ_MARGIN = 0.5
# Samples along an edge at most, so that a huge picture does not cost memory without end.
_MOST_SAMPLES = 2048


@dataclass(frozen=True)
class Face:
    """A found face: box (left, top, width, height); eyes and corners of the mouth, of each pair
    first the one that lies to the left in an upright face; the detector's score, 0 to 1."""

    box: tuple[float, float, float, float]
    eyes: tuple[Point, Point]
    mouth: tuple[Point, Point]
    score: float

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


@dataclass(frozen=True)
class Square:
    """A square in a picture: its centre, and the way from there to the middle of its right edge."""

    center: Point
    right: Point

    @property
    def side(self) -> float:
        """Length of an edge in pixels."""
        return 2 * math.hypot(*self.right)

    @property
    def degrees(self) -> float:
        """How far the square is turned, clockwise as one sees it."""
        return math.degrees(math.atan2(self.right[1], self.right[0]))


def square_around(face: Face, margin: float, align: bool) -> Square:
    """The square of a face, with `margin` times its size added at each side.

    Aligned, it is upright with the face, and its place and size follow from eyes and mouth: with
    FFHQ_MARGIN it is that of FFHQ (Karras et al. 2019, arXiv 1812.04948, its published alignment).
    Else, and where eyes and mouth are one point, it is the square around the box, not turned.
    """
    left, top, width, height = face.box
    boxed = Square((left + width / 2, top + height / 2), (max(width, height) * (0.5 + margin), 0.0))
    if not align:
        return boxed
    eyes, mouth = _middle(face.eyes), _middle(face.mouth)
    across = _way(*face.eyes)
    down = _way(eyes, mouth)
    # A quarter turn of the way down points to the right, too; their sum is steadier than either.
    right = (across[0] + down[1], across[1] - down[0])
    length = math.hypot(*right)
    if length < 1e-6:
        return boxed
    half = max(2.0 * math.hypot(*across), 1.8 * math.hypot(*down)) * (0.5 + margin)
    return Square(
        (eyes[0] + 0.1 * down[0], eyes[1] + 0.1 * down[1]),
        (right[0] * half / length, right[1] * half / length),
    )


def cut(image: Tensor, square: Square, size: int, border: float) -> Tensor:
    """What a square shows of an image (H, W, C): (size, size, C), fp32.

    Each pixel is the mean of bilinear samples that lie no further apart than the image's own pixels
    (up to 2048 along an edge). Outside the image everything is `border`.
    """
    height, width = image.shape[:2]
    per_pixel = max(1, min(math.ceil(square.side / size - 1e-6), _MOST_SAMPLES // size))
    across = (torch.arange(size * per_pixel, dtype=torch.float64) + 0.5) / (size * per_pixel)
    x, y = _places(square, 2 * across - 1, (2 * across - 1)[:, None])
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).float()[None]
    pixels = F.pad(image.detach().cpu().float(), (0, 1), value=1.0).movedim(-1, 0)[None]
    samples = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)
    cells = F.avg_pool2d(samples, per_pixel)[0].movedim(0, -1)
    # The last channel is how much of a pixel the image covers.
    return cells[..., :-1] + border * (1 - cells[..., -1:]).clamp_min(0)


def covered(square: Square, height: int, width: int) -> Tensor:
    """The pixels of an image whose middle lies in a square: (height, width), fp32, 0 or 1."""
    x = torch.arange(width, dtype=torch.float64) + 0.5 - square.center[0]
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - square.center[1])[:, None]
    right = square.right
    half = right[0] ** 2 + right[1] ** 2
    along, beside = x * right[0] + y * right[1], y * right[0] - x * right[1]
    return ((along.abs() <= half) & (beside.abs() <= half)).float()


def share_outside(square: Square, height: int, width: int) -> float:
    """How much of a square lies outside the image, 0 to 1, to about a thousandth."""
    steps = (torch.arange(1000, dtype=torch.float64) + 0.5) / 500 - 1
    x, y = _places(square, steps, steps[:, None])
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return 1 - float(inside.double().mean())


def _places(square: Square, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of places in a square, whose edges are at -1 and 1."""
    right = square.right
    return (
        square.center[0] + u * right[0] - v * right[1],
        square.center[1] + u * right[1] + v * right[0],
    )


def _middle(points: tuple[Point, Point]) -> Point:
    (x, y), (other_x, other_y) = points
    return (x + other_x) / 2, (y + other_y) / 2


def _way(start: Point, end: Point) -> Point:
    return end[0] - start[0], end[1] - start[1]
