"""Masks in real runs: 0 is no patch, 1 is no mask, and half a mask touches its half only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .conftest import World, differs, pack

PROMPT = "a photo of <anna> on a beach"
PLAIN = "a photo of person on a beach"
# Latent sizes of odd and even halvings; 64 to 200 pixels.
SIZES = [(8, 8), (9, 13), (11, 8), (17, 9), (12, 25)]


def picture(world: World, mask: Any, text: str = PROMPT, **options: Any) -> torch.Tensor:
    """Of a subject with a token weight, which a mask scales too."""
    model, clip = world.apply(world.subject(token_weight=16.0), mask=mask)
    return world.sample(world.encode(text, clip), world.encode("blurry", clip), model, **options)


def plain(world: World, **options: Any) -> torch.Tensor:
    return world.sample(world.encode(PLAIN), world.encode("blurry"), **options)


def left(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def test_the_host_halves_feature_maps_rounding_up() -> None:
    """The sizes that tests/core/test_masks.py goes through, by the host's own layer."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample

    layer: Any = Downsample(1, True, padding=1, dtype=torch.float32)
    torch.nn.init.ones_(layer.op.weight)
    for side in range(8, 257):
        found = torch.zeros(1, 1, side, 8)
        for times in (1, 2, 3):
            found = layer(found)
            assert found.shape[-2:] == (-(-side // 2**times), 8 >> times)


@pytest.mark.parametrize("size", SIZES)
def test_masks_of_one_value_are_no_patch_and_no_mask(sd15: World, size: tuple[int, int]) -> None:
    options: dict[str, Any] = {"size": size, "steps": 1, "batch": 2}
    without = picture(sd15, None, **options)
    assert differs(without, plain(sd15, **options))
    assert torch.equal(picture(sd15, torch.ones(1, 40, 23), **options), without)
    assert torch.equal(picture(sd15, torch.zeros(3, 40, 23), **options), plain(sd15, **options))


def watched(model: Any, seen: list[Any]) -> Any:
    """A clone that tells, for each site of each call, which queries changed and the mask."""
    patch, attention = pack("nodes.host.patch"), pack("nested_attn_core.attention")
    clone = model.clone()

    def attend(base: Any, query: Any, key: Any, value: Any, items: Any, heads: int) -> Any:
        out = attention.nested_attention(base, query, key, value, items, heads)
        for item in items:
            seen.append(((out != base).any(-1), item.positions, item.mask))
        return out

    for site in pack("nodes.host.sites").discover_sites(clone.model.diffusion_model):
        clone.set_model_attn2_replace(patch.NestedPatch(site.name, attend=attend), *site.key)
    return clone


@pytest.mark.parametrize("size", SIZES)
def test_half_a_mask_touches_its_half_of_each_site(sd15: World, size: tuple[int, int]) -> None:
    seen: list[Any] = []
    model, clip = sd15.apply(sd15.subject(), mask=left(80, 64))
    positive, negative = sd15.encode(PROMPT, clip), sd15.encode("blurry", clip)
    sd15.sample(positive, negative, watched(model, seen), steps=1, size=size)
    assert len(seen) == 16
    for changed, positions, mask in seen:
        rows = (positions >= 0).any(1)
        assert mask.shape == (1, changed.shape[1])
        assert torch.equal(changed[rows], mask != 0)
        assert not changed[~rows].any()
    first = seen[0][2].reshape(size)
    assert bool((first[:, : size[1] // 2] == 1).all())
    assert bool((first[:, -(size[1] // 2) :] == 0).all())


def test_frames_of_a_mask_go_by_the_images_of_the_batch(sd15: World) -> None:
    zero, one = torch.zeros(8, 8), torch.ones(8, 8)
    off, on = plain(sd15, batch=3, steps=1), picture(sd15, None, batch=3, steps=1)
    assert all(differs(off[i], on[i]) for i in range(3))

    def made(*frames: torch.Tensor) -> torch.Tensor:
        return picture(sd15, torch.stack(frames), batch=3, steps=1)

    fewer = made(zero, one)
    assert torch.equal(fewer[0], off[0]) and torch.equal(fewer[2], off[2])
    assert torch.allclose(fewer[1], on[1], rtol=1e-3, atol=1e-3 * float(on.std()))
    more = made(one, zero, one, zero, zero)
    assert torch.equal(more[1], off[1])
    assert differs(more[0], off[0]) and differs(more[2], off[2])


def test_a_feather_lies_between(sd15: World) -> None:
    feather = torch.linspace(1, 0, 128).expand(1, 64, -1)
    seen: list[Any] = []
    model, clip = sd15.apply(sd15.subject(), mask=feather)
    positive, negative = sd15.encode(PROMPT, clip), sd15.encode("blurry", clip)
    sd15.sample(positive, negative, watched(model, seen), steps=1)
    for _, _, mask in seen:
        side = round(mask.shape[1] ** 0.5)
        row = mask.reshape(side, side)[0]
        expected = 1 - (torch.arange(side) + 0.5) / side
        assert torch.allclose(row, expected, atol=0.01)


# Areas in pixels (width, height, x, y) of an image of 128 x 128: inner ones, ones at the border,
# and one that reaches beyond it, which the host cuts.
AREAS = [(64, 128, 64, 0), (64, 64, 32, 40), (72, 88, 56, 40), (128, 128, 64, 64)]


@pytest.mark.parametrize("area", AREAS)
def test_a_mask_lies_on_an_area_as_on_the_image(
    sd15: World, host: Any, area: tuple[int, int, int, int]
) -> None:
    width, height, x, y = area
    mask = torch.zeros(1, 128, 128)
    mask[:, y : y + height, x : x + width] = 1
    ramp = torch.linspace(0.1, 1, 128).expand(1, 128, -1)

    def made(**settings: Any) -> torch.Tensor:
        model, clip = sd15.apply(sd15.subject(token_weight=4.0), **settings)
        part = host.ConditioningSetArea().append(sd15.encode(PROMPT, clip), *area, 1.0)[0]
        positive = part + sd15.encode("a beach", clip)
        return sd15.sample(positive, sd15.encode("blurry", clip), model, steps=1)

    without, whole = made(strength=0.0), made()
    assert differs(without, whole)
    assert torch.equal(made(mask=1 - mask), without)
    assert torch.equal(made(mask=mask), whole)
    seen: list[Any] = []
    model, clip = sd15.apply(sd15.subject(), mask=ramp)
    part = host.ConditioningSetArea().append(sd15.encode(PROMPT, clip), *area, 1.0)[0]
    sd15.sample(
        part + sd15.encode("a beach", clip), sd15.encode("", clip), watched(model, seen), steps=1
    )
    for (_, positions, found), _ in zip(seen, range(16), strict=False):
        filled = (positions >= 0).any(1)
        row = found[0 if len(found) == 1 else int(filled.nonzero()[0])]
        assert ramp[0, 0, x] - 0.01 <= row.min() and row.max() <= ramp[0, 0, -1]


def test_areas_given_in_percent(sd15: World, host: Any) -> None:
    def made(**settings: Any) -> torch.Tensor:
        model, clip = sd15.apply(sd15.subject(), **settings)
        area = host.NODE_CLASS_MAPPINGS["ConditioningSetAreaPercentage"]()
        part = area.append(sd15.encode(PROMPT, clip), 0.5, 1.0, 0.5, 0.0, 1.0)[0]
        positive = part + sd15.encode("a beach", clip)
        return sd15.sample(positive, sd15.encode("blurry", clip), model, size=(16, 18), steps=1)

    without = made(strength=0.0)
    assert torch.equal(made(mask=left(40, 64)), without)
    assert differs(made(mask=left(40, 64).flip(-1)), without)


def in_tiles(tiles: list[tuple[slice, slice]]) -> Callable[..., Any]:
    """A wrapper of the model call as packs for tiled diffusion have it: tiles of the latent become
    rows, everything that has the latent's shape is cut alike, the rest is repeated."""
    import comfy.utils

    def call(function: Any, arguments: dict[str, Any]) -> torch.Tensor:
        x, t, given = arguments["input"], arguments["timestep"], arguments["c"]
        rows = len(x) * len(tiles)

        def cut(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if value.ndim == 4 and value.shape[-2:] == x.shape[-2:]:
                value = torch.cat([value[:, :, ys, xs] for ys, xs in tiles])
            return comfy.utils.repeat_to_batch_size(value, rows)

        out = function(cut(x), cut(t), **{name: cut(value) for name, value in given.items()})
        whole, count = torch.zeros_like(x), torch.zeros_like(x)
        for (ys, xs), part in zip(tiles, out.split(len(x)), strict=True):
            whole[:, :, ys, xs] += part
            count[:, :, ys, xs] += 1
        return whole / count

    return call


def test_a_mask_follows_tiled_sampling(sd15: World) -> None:
    """A tile in which the mask is empty is as without the subject, one in which it is full as
    without a mask."""
    tiles = [(slice(0, 16), slice(0, 8)), (slice(0, 16), slice(8, 16))]

    def made(**settings: Any) -> torch.Tensor:
        model, clip = sd15.apply(sd15.subject(), **settings)
        model.set_model_unet_function_wrapper(in_tiles(tiles))
        positive, negative = sd15.encode(PROMPT, clip), sd15.encode("blurry", clip)
        return sd15.sample(positive, negative, model, steps=1, batch=2)

    without, whole, half = made(strength=0.0), made(), made(mask=left(64, 64))
    assert differs(without[..., :8], whole[..., :8])
    assert torch.equal(half[..., 8:], without[..., 8:])
    assert torch.allclose(half[..., :8], whole[..., :8], atol=1e-4 * float(whole.std()))
