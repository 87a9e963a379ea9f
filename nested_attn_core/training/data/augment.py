"""References that cannot be pasted: the same subject, cut, mirrored, turned and recoloured.

Where a subject has one picture only, reference and target are that picture. An encoder could then
learn to copy pixels; an augmented reference leaves it the subject alone to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

_SMALLEST_CUT = 0.6  # of the picture's edges
_MARGIN = 0.08  # left around a mask, of the picture's edges
_TURN = 12.0  # degrees
_COLOUR = {  # how far each may be raised or lowered
    ImageEnhance.Brightness: 0.25,
    ImageEnhance.Contrast: 0.2,
    ImageEnhance.Color: 0.2,
}


@dataclass(frozen=True)
class Augmentation:
    """mask_background: share of the references without background, where there is a mask."""

    mask_background: float = 0.5

    def __call__(
        self,
        picture: Image.Image,
        mask: Callable[[], Image.Image] | None,
        generator: torch.Generator,
    ) -> Image.Image:
        """An augmented copy of an RGB picture; the same generator state, the same copy."""
        lots = torch.rand(12, generator=generator).tolist()
        marks = _same_size(mask(), picture) if mask is not None else None
        if marks is not None and marks.getbbox() is None:
            marks = None
        if marks is not None and lots[0] < self.mask_background:
            level = tuple(round(255 * lot) for lot in lots[1:4])
            picture = Image.composite(picture, Image.new("RGB", picture.size, level), marks)
        picture = _cut(picture, marks, lots[4:7])
        if lots[7] < 0.5:
            picture = ImageOps.mirror(picture)
        angle = (2 * lots[8] - 1) * _TURN
        picture = _turned(picture, angle)
        for (enhance, reach), lot in zip(_COLOUR.items(), lots[9:12], strict=True):
            picture = enhance(picture).enhance(1 + (2 * lot - 1) * reach)
        return picture


def _same_size(mask: Image.Image, picture: Image.Image) -> Image.Image:
    return mask if mask.size == picture.size else mask.resize(picture.size)


def _cut(picture: Image.Image, marks: Image.Image | None, lots: list[float]) -> Image.Image:
    """A part of the picture, with all of the subject where a mask says where it is."""
    width, height = picture.size
    scale = _SMALLEST_CUT + (1 - _SMALLEST_CUT) * lots[0]
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = round(lots[1] * (width - w)), round(lots[2] * (height - h))
    box = [left, top, left + w, top + h]
    subject = marks.point([0] * 128 + [255] * 128).getbbox() if marks else None
    if subject is not None:
        margins = (width * _MARGIN, height * _MARGIN)
        box[0] = min(box[0], max(0, int(subject[0] - margins[0])))
        box[1] = min(box[1], max(0, int(subject[1] - margins[1])))
        box[2] = max(box[2], min(width, int(subject[2] + margins[0])))
        box[3] = max(box[3], min(height, int(subject[3] + margins[1])))
    return picture.crop((box[0], box[1], box[2], box[3]))


def _turned(picture: Image.Image, angle: float) -> Image.Image:
    """Turned about its middle; corners show a blurred copy, not an edge that could be learnt."""
    turned = picture.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC)
    ground = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 16)).convert("RGBA")
    return Image.alpha_composite(ground, turned).convert("RGB")
