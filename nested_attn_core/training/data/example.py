"""One picture of a data set, and what every source of pictures offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ...errors import NestedAttentionError

# How a caption names the subject, whatever the data set writes there.
NAME = "subject"
PLACEHOLDER = f"<{NAME}>"


class DataError(NestedAttentionError):
    """A data set that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Example:
    """A picture with its caption. Nothing is decoded before `image` is called.

    key        sha256 of the picture's bytes (and of the mask's, where there is one), hex
    caption    with PLACEHOLDER where it names the subject
    identity   who the subject is; pictures of one subject have the same
    size       (width, height) in pixels, as it is seen (after EXIF rotation)
    origin     where it comes from, for messages
    image      loads it as RGB; raises DataError where that fails (a file has vanished, say)
    mask       loads the subject's mask, "L" and of the same size; None where there is none
    reference  whether it shows the subject alone, so that it may serve as a reference
    """

    key: str
    caption: str
    identity: str
    size: tuple[int, int]
    origin: str
    image: Callable[[], Image.Image]
    mask: Callable[[], Image.Image] | None = None
    reference: bool = True


class Source(Protocol):
    """A data set that can be read in any order. Safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Example:
        """The picture of a row from 0 to len - 1."""
        ...
