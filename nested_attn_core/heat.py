"""Maps of numbers as colours."""

from __future__ import annotations

import colorsys

import torch
import torch.nn.functional as F
from torch import Tensor


def heat(values: Tensor) -> Tensor:
    """(...) from 0 to 1 -> (..., 3): black, red, yellow, white."""
    level = values.clamp(0, 1)[..., None] * 3
    return torch.cat([(level - step).clamp(0, 1) for step in range(3)], -1)


def token_colours(count: int) -> Tensor:
    """A colour for each nested token, (count, 3): hues apart, in two brightnesses."""
    hues = [colorsys.hsv_to_rgb(i / count, 0.75, 1.0 if i % 2 else 0.7) for i in range(count)]
    return torch.tensor(hues)


def heat_over(image: Tensor, share: Tensor) -> Tensor:
    """image (H, W, 3), share (grid, grid) from 0 to 1 -> (H, W, 3): the image in grey, and the map
    over it."""
    smooth = F.interpolate(share[None, None], size=image.shape[:2], mode="bilinear")[0, 0]
    grey = image.mean(-1, keepdim=True).expand(-1, -1, 3)
    return (0.45 * grey + 0.75 * heat(smooth)).clamp(0, 1)


def favourites(drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """drawn (grid, grid, tokens) -> (*size, 3): the token that each place drew on most by colour,
    brighter where it drew more."""
    painted = token_colours(drawn.shape[-1])[drawn.argmax(-1)]
    total = drawn.sum(-1)
    shown = painted * (total / total.max().clamp_min(1e-9))[..., None]
    return F.interpolate(shown.movedim(-1, 0)[None], size=size, mode="nearest")[0].movedim(0, -1)
