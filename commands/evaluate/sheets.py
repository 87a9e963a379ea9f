"""Contact sheets: rows of pictures with words beside and above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from fonts import font

TILE, GAP, LINE = 128, 6, 18


@dataclass(frozen=True)
class Row:
    """Pictures (H, W, 3) in 0..1 with a line of text above them."""

    text: str
    pictures: Sequence[Tensor]


def tile(picture: Tensor, side: int = TILE) -> Image.Image:
    image = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def sheet(rows: Sequence[Row], heads: Sequence[str] = (), side: int = TILE) -> Image.Image:
    """One row under the other, `heads` above the columns, in two lines where one is too short."""
    columns = max(len(row.pictures) for row in rows)
    above = [wrapped(head, side // 6) for head in heads]
    top = max(map(len, above)) * (LINE - 3) + GAP if above else 0
    pitch = LINE + side + GAP
    made = Image.new("RGB", (columns * (side + GAP) + GAP, top + pitch * len(rows) + GAP), "white")
    pen = ImageDraw.Draw(made)
    for column, lines in enumerate(above):
        write(pen, GAP + column * (side + GAP), GAP, lines, "#555555")
    for number, row in enumerate(rows):
        y = top + number * pitch
        pen.text((GAP, y + 3), row.text, "black", font(12))
        for column, picture in enumerate(row.pictures):
            made.paste(tile(picture, side), (GAP + column * (side + GAP), y + LINE))
    return made


def grid(cells: Sequence[Row], columns: int, side: int = TILE) -> Image.Image:
    """Cells of one or more pictures each, `columns` of them side by side, each with its text."""
    width = max(len(cell.pictures) for cell in cells) * (side + 2) + GAP
    pitch = 2 * LINE + side + GAP
    lines = -(-len(cells) // columns)
    made = Image.new("RGB", (columns * width + GAP, lines * pitch + GAP), "white")
    pen = ImageDraw.Draw(made)
    for number, cell in enumerate(cells):
        x, y = GAP + number % columns * width, number // columns * pitch
        write(pen, x, y + 3, wrapped(cell.text, width // 6), "black")
        for column, picture in enumerate(cell.pictures):
            made.paste(tile(picture, side), (x + column * (side + 2), y + 2 * LINE))
    return made


def write(pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], colour: str) -> None:
    """Small lines of text, one under the other."""
    for line, text in enumerate(lines):
        pen.text((x, y + line * (LINE - 3)), text, colour, font(11))


def wrapped(text: str, letters: int) -> list[str]:
    """At most two lines of about `letters` letters, broken at a space."""
    if len(text) <= letters:
        return [text]
    cut = text.rfind(" ", 0, letters)
    cut = cut if cut > 0 else letters
    rest = text[cut:].strip()
    return [text[:cut], rest if len(rest) <= letters else rest[: letters - 1] + "…"]


def save(image: Image.Image, path: Path) -> Path:
    """Writes the picture in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True, quality=88)
    return path
