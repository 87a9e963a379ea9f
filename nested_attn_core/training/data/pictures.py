"""Pictures out of bytes: as they are seen, in RGB, with one sentence for what cannot be read."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageOps, UnidentifiedImageError

from .example import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_SHAPES_DIFFER = 0.02  # in the logarithm of width to height


def decode(content: bytes, origin: str) -> Image.Image:
    """The picture in RGB, turned as its EXIF data say; transparency lies on white.

    Raises DataError for bytes that are no picture, or only half of one.
    """
    with _readable(origin), Image.open(io.BytesIO(content)) as picture:
        seen = ImageOps.exif_transpose(picture)
        if seen.has_transparency_data:
            seen = seen.convert("RGBA")
            ground = Image.new("RGBA", seen.size, "white")
            return Image.alpha_composite(ground, seen).convert("RGB")
        return _eight_bits(seen).convert("RGB")


def decode_mask(content: bytes, origin: str) -> Image.Image:
    """The mask in "L"; of a picture with transparency, what is opaque."""
    with _readable(origin), Image.open(io.BytesIO(content)) as picture:
        seen = ImageOps.exif_transpose(picture)
        if seen.has_transparency_data:
            return seen.convert("RGBA").getchannel("A")
        return _eight_bits(seen).convert("L")


def check_mask(mask: Image.Image, size: tuple[int, int]) -> None:
    """Raises DataError, as the end of a sentence, for a mask that does not mark a part of a picture
    of this size."""
    if mask.getbbox() is None:
        raise DataError("the mask is empty; mark the subject in white, or remove the mask")
    shapes = [math.log(width / height) for width, height in (mask.size, size)]
    if abs(shapes[0] - shapes[1]) > _SHAPES_DIFFER:
        raise DataError(
            f"the mask has {mask.width} x {mask.height} pixels and the picture {size[0]} x "
            f"{size[1]}; give both one shape"
        )


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit greys would be clipped, not scaled."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda grey: grey / 256).convert("L")
    return picture


@contextmanager
def _readable(origin: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # A picture that large is refused at twice this size anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError as error:
        raise DataError(
            f"{origin} is no picture that can be read; replace or remove it."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{origin} is too large to be safe ({error}); scale it down.") from error
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise DataError(f"{origin} is damaged ({error}); replace or remove it.") from error
