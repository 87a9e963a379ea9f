"""Which faces are cropped, in which order, and what is said of them; with faces given by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.face_crops import ALL, ERROR, KEEP, LARGEST, SKIP, CropWishes, crop_faces
from nested_attn_core.face_geometry import Face

IMAGES = torch.rand(3, 60, 90, 3, generator=torch.Generator().manual_seed(0))


def face(left: float, top: float, width: float, height: float) -> Face:
    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width, top + y * height

    return Face(
        (left, top, width, height), (at(0.3, 0.4), at(0.7, 0.4)), (at(0.3, 0.8), at(0.7, 0.8)), 0.98
    )


SMALL_RIGHT, LARGE, SMALL_LEFT = face(70, 4, 9, 9), face(30, 10, 30, 40), face(2, 30, 10, 12)


def crops(*found: list[Face], **wishes):
    faces = iter(found)

    def detect(image: Tensor) -> list[Face]:
        assert image.shape == (60, 90, 3)
        return next(faces)

    return crop_faces(
        IMAGES[: len(found)], detect, CropWishes(size=64, **{"align": False, **wishes}), 0.5
    )


def centers(masks: Tensor) -> list[tuple[int, int]]:
    return [tuple((mask.nonzero().float().mean(0) + 0.5).round().int().tolist()) for mask in masks]


def test_the_largest_or_all_from_left_to_right() -> None:
    many = [SMALL_RIGHT, LARGE, SMALL_LEFT]
    assert centers(crops(many, several=LARGEST, margin=0).masks) == [(30, 45)]
    made = crops(many, [LARGE], several=ALL, margin=0)
    assert centers(made.masks) == [(36, 7), (30, 45), (8, 74), (30, 45)]
    assert made.faces == 4 and made.images.shape == (4, 64, 64, 3)
    assert [line.partition(":")[0] for line in made.report.splitlines()] == [
        *["picture 1 of 2"] * 3,
        "picture 2 of 2",
    ]
    with pytest.raises(NestedAttentionError, match="^Picture 2 of 3 shows 3 faces; choose"):
        crops([LARGE], many, [LARGE], several=ERROR)
    with pytest.raises(NestedAttentionError, match="^The picture shows 3 faces; choose"):
        crops(many, several=ERROR)


def test_no_face() -> None:
    with pytest.raises(NestedAttentionError, match="^Picture 3 of 3 shows no face"):
        crops([LARGE], [LARGE], [], none=ERROR)
    skipped = crops([], [LARGE], [], none=SKIP)
    assert len(skipped.images) == skipped.faces == 1
    assert skipped.report.splitlines()[0] == "picture 1 of 3: no face, left out"
    kept = crops([], [LARGE], none=KEEP)
    assert len(kept.images) == 2 and kept.faces == 1 and kept.masks[0].all()
    assert "no face, the whole picture, 33% of it grey border" in kept.report
    # 90 pixels onto 64: the picture's 60 rows are 42.7 of them.
    assert (kept.images[0, :10] == 0.5).all() and not (kept.images[0, 12] == 0.5).any()
    with pytest.raises(NestedAttentionError, match="^No face was found in any picture"):
        crops([], [], none=SKIP)
    with pytest.raises(NestedAttentionError, match="^No face was found in the picture"):
        crops([], none=SKIP)


def test_the_report_tells_size_turn_and_border() -> None:
    tilted = Face((10, 10, 20, 20), ((14, 16), (24, 18)), ((12, 26), (22, 28)), 0.987)
    (line,) = crops([tilted], align=True).report.splitlines()
    assert line.startswith(
        "the picture: a face of 20 x 20 pixels (score 0.99), from a square of 41"
    )
    assert "turned by 11.3 degrees" in line and "of it grey border" in line
    (line,) = crops([LARGE], margin=0).report.splitlines()
    assert line.endswith("from a square of 40 pixels")
