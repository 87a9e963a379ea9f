"""Styles that a caption can name, as filters over the whole picture."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageChops, ImageFilter, ImageOps


def pixel_art(image: Image.Image) -> Image.Image:
    """Blocks of a thirty-second of the side."""
    small = image.resize((32, 32), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def pencil_sketch(image: Image.Image) -> Image.Image:
    """Grey lines on paper: what is darker than its surroundings."""
    grey = ImageOps.grayscale(image)
    soft = grey.filter(ImageFilter.GaussianBlur(image.width / 42))
    shade = Image.blend(Image.new("L", image.size, 255), soft, 0.15)
    lines = Image.eval(ImageChops.subtract(soft, grey), lambda value: max(0, 255 - 4 * value))
    return Image.merge("RGB", [ImageChops.multiply(lines, shade)] * 3)


def sepia_photo(image: Image.Image) -> Image.Image:
    """Brightness alone, from dark brown to cream."""
    return ImageOps.colorize(ImageOps.grayscale(image), "#24140a", "#f4dfb8")


STYLES: dict[str, Callable[[Image.Image], Image.Image] | None] = {
    "": None,
    "pixel art": pixel_art,
    "pencil sketch": pencil_sketch,
    "sepia photo": sepia_photo,
}
COLOURLESS = frozenset({"pencil sketch", "sepia photo"})


def apply_style(name: str, image: Image.Image) -> Image.Image:
    """The picture in a style of STYLES; "" leaves it as it is."""
    style = STYLES[name]
    return image if style is None else style(image)
