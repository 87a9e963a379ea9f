"""Masks on feature maps, against coverage computed pixel by pixel in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nested_attn_core.masks import on_latent, on_site

SIDES = range(8, 257)  # latents of images of 64 to 2048 pixels, in steps of 8


def halved(side: int, times: int) -> int:
    for _ in range(times):
        side = (side + 1) // 2
    return side


def covered(values: list[float], cells: list[tuple[Fraction, Fraction]]) -> list[float]:
    """Means of a row of pixels over cells (start, end), each pixel one long."""
    means = []
    for start, end in cells:
        total = Fraction(0)
        for index, value in enumerate(values):
            overlap = min(end, Fraction(index + 1)) - max(start, Fraction(index))
            total += max(overlap, Fraction(0)) * Fraction(value)
        means.append(float(total / (end - start)))
    return means


def dense(mask: Tensor, rows: list, columns: list) -> Tensor:
    by_column = torch.tensor([covered(row, columns) for row in mask.double().tolist()])
    return torch.tensor([covered(c, rows) for c in by_column.T.double().tolist()]).T


def even(pixels: int, cells: int) -> list[tuple[Fraction, Fraction]]:
    step = Fraction(pixels, cells)
    return [(i * step, (i + 1) * step) for i in range(cells)]


def stepped(pixels: int, factor: int) -> list[tuple[Fraction, Fraction]]:
    return [(Fraction(i), Fraction(min(i + factor, pixels))) for i in range(0, pixels, factor)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_latent_pixel_is_the_mean_of_what_it_covers(data: st.DataObject) -> None:
    height, width, rows, columns = (data.draw(st.integers(1, 12)) for _ in range(4))
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(rows))
    expected = dense(mask, even(height, rows), even(width, columns))
    assert torch.allclose(on_latent(mask, (rows, columns)).float(), expected, atol=1e-6)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_query_is_the_mean_of_the_latent_pixels_it_stands_for(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14))
    times = data.draw(st.integers(0, 3))
    part = torch.rand(height, width, generator=torch.Generator().manual_seed(height))
    expected = dense(part, stepped(height, 2**times), stepped(width, 2**times))
    found = on_site(part, (halved(height, times), halved(width, times)))
    assert torch.allclose(found.float(), expected, atol=1e-6)


def test_sizes_of_no_halving_share_the_map_evenly() -> None:
    part = torch.rand(10, 9)
    expected = dense(part, even(10, 4), even(9, 7))
    assert torch.allclose(on_site(part, (4, 7)).float(), expected, atol=1e-6)


@pytest.mark.parametrize("times", range(4))
def test_every_size_from_64_to_2048_pixels(times: int) -> None:
    """0 stays 0, 1 stays 1, and half a mask is 0 or 1 but for the one query on its edge."""
    masks = torch.zeros(3, 24, 64)
    masks[1] = 1
    masks[2, :, :32] = 1
    for side in SIDES:
        other = SIDES[(side * 7) % len(SIDES)]
        latent, size = (side, other), (halved(side, times), halved(other, times))
        zero, one, left = on_site(on_latent(masks, latent), size).float()
        assert zero.shape == size and not zero.any() and bool((one == 1).all())
        assert bool((left == left[0]).all())
        edge = Fraction(other, 2) / 2**times
        for index, value in enumerate(left[0].tolist()):
            if index + 1 <= edge:
                assert value == 1
            elif index >= edge:
                assert value == 0
            else:
                assert 0 < value < 1


def test_a_part_lies_as_it_does_in_the_whole() -> None:
    """An area that begins where a query of the whole begins has the whole's values."""
    latent = on_latent(torch.rand(50, 70), (24, 40))
    whole = on_site(latent, (6, 10))
    part = on_site(latent[8:20, 4:28], (3, 6))
    assert torch.allclose(part, whole[2:5, 1:7], atol=1e-12)


def test_feathers_beside_plain_parts_do_not_disturb_them() -> None:
    row = torch.cat([torch.zeros(100), torch.rand(57), torch.ones(100), torch.rand(3)])
    found = on_site(on_latent(row.expand(9, -1), (33, 260)), (17, 130)).float()
    assert bool((found[:, :50] == 0).all()) and bool((found[:, 79:128] == 1).all())
