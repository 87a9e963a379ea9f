"""Masks of any size on the feature maps of a denoiser, by exact coverage.

A mask lies over the whole image. A latent pixel takes the mean of what it covers of the mask, and a
site's query the mean of the latent pixels that it stands for. Each halving of a UNet rounds up, so
that query i at 1/f of the resolution stands for latent pixels i f to (i + 1) f, as far as there
are any. Where a mask is 0 (or 1) throughout, the result is 0 (or 1) exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def on_latent(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """mask (..., h, w) -> (..., *size), fp64: the mean over what each latent pixel covers."""
    whole = (int(mask.shape[-2]), int(mask.shape[-1]))
    edges = [_even_edges(m, n) for m, n in zip(whole, size, strict=True)]
    return _along_both(mask.double(), edges)


def on_site(part: Tensor, size: tuple[int, int]) -> Tensor:
    """A part of a latent-sized mask (..., h, w) -> (..., *size) of a site's feature map, fp64.

    `size` is that of the part, halved k times and rounded up each time; where it is no such size
    (another extension resizes feature maps), the cells are of equal size.
    """
    whole = (int(part.shape[-2]), int(part.shape[-1]))
    factor = _factor(whole, size)
    edges = [
        _even_edges(m, n) if factor is None else _stepped_edges(m, n, factor)
        for m, n in zip(whole, size, strict=True)
    ]
    return _along_both(part.double(), edges)


def axis_coverage(pixels: int, cells: int) -> Tensor:
    """How much of each of `cells` equal cells each of `pixels` covers, (cells, pixels), fp64."""
    return _means(torch.eye(pixels, dtype=torch.float64), _even_edges(pixels, cells)).T


def product(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Both masks, (H, W) or (frames, H, W) each; None is no mask. Where sizes differ, the product
    has the larger height and width; frames are used in turn, as in a run."""
    if first is None or second is None:
        return second if first is None else first
    if first.shape == second.shape:
        return first * second
    masks = [mask.cpu().reshape(-1, *mask.shape[-2:]) for mask in (first, second)]
    frames = math.lcm(*(len(mask) for mask in masks))
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (1, 2))
    large = [
        torch.stack([on_latent(frame, (height, width)).float() for frame in mask]) for mask in masks
    ]
    return large[0].repeat(frames // len(large[0]), 1, 1) * large[1].repeat(
        frames // len(large[1]), 1, 1
    )


def _factor(whole: tuple[int, int], size: tuple[int, int]) -> int | None:
    """The power of two by which `size` is smaller than `whole`, rounded up."""
    factor = 1
    while factor <= 2 * max(whole):
        if all(-(-m // factor) == n for m, n in zip(whole, size, strict=True)):
            return factor
        factor *= 2
    return None


# Edges of cells in a row of pixels: (whole pixels before the edge, numerator of the rest), and the
# denominator of all rests.
_Edges = tuple[Tensor, Tensor, int]


def _even_edges(pixels: int, cells: int) -> _Edges:
    edges = torch.arange(cells + 1) * pixels
    return edges // cells, edges % cells, cells


def _stepped_edges(pixels: int, cells: int, factor: int) -> _Edges:
    edges = (torch.arange(cells + 1) * factor).clamp_max(pixels)
    return edges, torch.zeros_like(edges), 1


def _along_both(values: Tensor, edges: list[_Edges]) -> Tensor:
    rows = _means(values.mT, edges[0]).mT
    return _means(rows, edges[1])


def _means(values: Tensor, edges: _Edges) -> Tensor:
    """Means of (..., n) between the edges, (..., cells); whole numbers stay exact."""
    whole, rest, parts = edges[0].to(values.device), edges[1].to(values.device), edges[2]
    sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    beside = values[..., whole.clamp_max(values.shape[-1] - 1)]
    length = (whole * parts + rest).diff()
    return (sums[..., whole] * parts + rest * beside).diff(dim=-1) / length
