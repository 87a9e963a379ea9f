"""Pictures of any shape to those of a training: one size, or buckets of equal area."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

STEP = 64  # pixels; what every UNet of the family can halve as often as it does
# Shorter to longer edge of the buckets, landscape and portrait.
_RATIOS = (1.0, 4 / 5, 3 / 4, 2 / 3, 9 / 16)
_GREY = (128, 128, 128)


@dataclass(frozen=True)
class Fitting:
    """Which size a picture gets, and how; sizes are (width, height) in pixels."""

    size: int
    fit: str = "crop"
    buckets: bool = False

    def sizes(self) -> list[tuple[int, int]]:
        """Every size that occurs; the square first."""
        if not self.buckets:
            return [(self.size, self.size)]
        found = []
        for ratio in _RATIOS:
            short, long = (
                max(STEP, round(self.size * scale / STEP) * STEP)
                for scale in (math.sqrt(ratio), math.sqrt(1 / ratio))
            )
            found += [(long, short), (short, long)]
        return list(dict.fromkeys(found))

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size for a picture: the one of the nearest shape."""
        shape = math.log(size[0] / size[1])
        return min(self.sizes(), key=lambda to: abs(math.log(to[0] / to[1]) - shape))

    def apply(
        self, picture: Image.Image, to: tuple[int, int], fill: int | tuple[int, ...] = _GREY
    ) -> Image.Image:
        """Scaled, and cut in the middle or padded; the very picture where the size is right."""
        if picture.size == to:
            return picture
        scales = [wanted / is_ for wanted, is_ in zip(to, picture.size, strict=True)]
        scale = max(scales) if self.fit == "crop" else min(scales)
        scaled = tuple(max(1, round(is_ * scale)) for is_ in picture.size)
        if self.fit == "crop":
            scaled = tuple(max(pair) for pair in zip(scaled, to, strict=True))
        picture = picture.resize((scaled[0], scaled[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
        left, top = ((is_ - wanted) // 2 for is_, wanted in zip(picture.size, to, strict=True))
        if self.fit == "crop":
            return picture.crop((left, top, left + to[0], top + to[1]))
        ground = Image.new(picture.mode, to, fill)
        ground.paste(picture, (-left, -top))
        return ground


def pixels(picture: Image.Image) -> Tensor:
    """(H, W, 3) float in 0..1"""
    return torch.from_numpy(np.array(picture)).float() / 255


def fitted_mask(load: Callable[[], Image.Image], fitting: Fitting, to: tuple[int, int]) -> Tensor:
    """(1, to height, to width) float in 0..1; where a border was added there is no subject."""
    mask = fitting.apply(load(), to, 0)
    return torch.from_numpy(np.array(mask)).float()[None] / 255


def mask_cells(mask: Tensor, height: int, width: int) -> Tensor:
    """Share of the subject in each cell of the latents: (1, H, W) to (1, height, width)."""
    return F.adaptive_avg_pool2d(mask[None], (height, width))[0]
