"""What a recorder saw, drawn over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.heat import favourites, heat, heat_over, token_colours
from ...nested_attn_core.pictures import check_pictures
from ...nested_attn_core.recording import AttentionRecord

_LINE = 16
_GAP = 8
_SIDE = 256


def draw(
    record: AttentionRecord | None,
    images: Tensor,
    periods: Sequence[str],
    groups: Sequence[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Heat maps and token maps, each (subjects * images, H, W, 3), and the legend (1, h, w, 3).

    Raises NestedAttentionError where nothing was recorded, and for an image that is none.
    """
    check_pictures(images, "image")
    if record is None or not record.names:
        raise NestedAttentionError(
            "No subject was watched; connect the MODEL of Watch Attention to the sampler whose "
            "image comes in here, and name a subject in its prompt."
        )
    found = {name: record.maps(name, periods, groups) for name in record.names}
    known = {name: maps for name, maps in found.items() if maps is not None}
    if not known:
        raise NestedAttentionError(
            f"Nothing was recorded in the {' and '.join(groups)} layers during the "
            f"{' and '.join(periods)} steps; choose all of them, or other ones that this model and "
            "this sampling have."
        )
    shown = images[: record.images, ..., :3].cpu().float()
    size = (int(shown.shape[1]), int(shown.shape[2]))
    # One scale for all subjects, so that they can be compared.
    largest = max(float(looked[: len(shown)].max()) for looked, _ in known.values())
    maps, tokens = [], []
    for looked, drawn in known.values():
        for number, image in enumerate(shown):
            maps.append(heat_over(image, looked[number] / max(largest, 1e-9)))
            tokens.append(favourites(drawn[number], size))
    first = [(name, maps[i * len(shown)], tokens[i * len(shown)]) for i, name in enumerate(known)]
    counts = {name: drawn.shape[-1] for name, (_, drawn) in known.items()}
    return torch.stack(maps), torch.stack(tokens), _legend(shown[0], first, largest, counts)


def _legend(
    image: Tensor, rows: Sequence[tuple[str, Tensor, Tensor]], largest: float, counts: dict
) -> Tensor:
    """The image, then a row for each subject: its map, its tokens, and what colours mean."""
    width = _SIDE
    height = max(round(_SIDE * image.shape[0] / image.shape[1]), 1)
    step = height + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (3 * (width + _GAP) + _GAP, len(rows) * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)

    def put(pixels: Tensor, column: int, top: int, size: tuple[int, int]) -> None:
        array = np.ascontiguousarray((pixels.clamp(0, 1) * 255).round().byte().numpy())
        left = _GAP + column * (width + _GAP)
        sheet.paste(Image.fromarray(array).resize(size, Image.Resampling.NEAREST), (left, top))

    for number, (name, looked, drawn) in enumerate(rows):
        top = _GAP + number * step
        titles = (
            f"{name}: the image",
            f"share of attention, 0 to {largest:.0%}",
            f"which of {counts[name]} tokens, first to last",
        )
        for column, title in enumerate(titles):
            # The built-in font has no letters beyond Latin.
            text = title.encode("latin-1", "replace").decode("latin-1")
            pen.text((_GAP + column * (width + _GAP), top), text, fill="black")
        for column, pixels in enumerate((image, looked, drawn)):
            put(pixels, column, top + _LINE, (width, height))
        put(heat(torch.linspace(0, 1, width))[None], 1, top + _LINE + height, (width, _LINE // 2))
        bar = (width, _LINE // 2)
        put(token_colours(counts[name])[None], 2, top + _LINE + height, bar)
    return torch.from_numpy(np.array(sheet)).float()[None] / 255
