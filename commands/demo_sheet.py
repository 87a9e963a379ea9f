"""The demo's picture: references on the left, what was drawn of them on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from fonts import font

TILE, GAP, HEAD, LINES, LINE = 224, 12, 60, 3, 19
COLUMNS = 6
PITCH = TILE + GAP


@dataclass(frozen=True)
class Strip:
    """One row: named references, and pictures with their prompts; COLUMNS of both together."""

    references: tuple[tuple[str, Path], ...]
    pictures: tuple[tuple[str, Image.Image], ...]

    def __post_init__(self) -> None:
        if len(self.references) + len(self.pictures) != COLUMNS:
            raise ValueError(
                f"A row has {len(self.references)} references and {len(self.pictures)} pictures, "
                f"expected {COLUMNS} together."
            )


def tile(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


def wrap(text: str, width: float, pen: ImageDraw.ImageDraw, letters) -> list[str]:
    """The words of `text` in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and pen.textlength(longer, font=letters) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def corner(row: int, column: int) -> tuple[int, int]:
    """Where a row's tile lies: (left, top) in pixels."""
    return GAP + column * PITCH, HEAD + row * (TILE + LINES * LINE + 2 * GAP)


def draw(title: str, strips: Sequence[Strip]) -> Image.Image:
    """The sheet, RGB; below each tile stands its name or prompt."""
    width, height = corner(len(strips), COLUMNS)
    sheet = Image.new("RGB", (width, height), "white")
    pen, letters = ImageDraw.Draw(sheet), font(15)
    pen.text((GAP, GAP), title, "black", font(24))
    for row, strip in enumerate(strips):
        named = [(name, Image.open(path)) for name, path in strip.references]
        for column, (words, image) in enumerate([*named, *strip.pictures]):
            left, top = corner(row, column)
            sheet.paste(tile(image), (left, top))
            for number, line in enumerate(wrap(words, TILE, pen, letters)[:LINES]):
                pen.text((left, top + TILE + 4 + number * LINE), line, "#333333", letters)
            if column < len(named):
                pen.rectangle(
                    (left, top, left + TILE - 1, top + TILE - 1), outline="#d06a1c", width=4
                )
    return sheet
