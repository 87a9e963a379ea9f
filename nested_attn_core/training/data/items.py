"""What a data set lists, before anything of it is known to be good."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from .example import DataError
from .pictures import check_mask, decode, decode_mask


class Facts(NamedTuple):
    """What one full look at an item tells: key and size as in Example."""

    key: str
    size: tuple[int, int]


class Item(Protocol):
    """One picture as it is listed; whatever reads it raises DataError in one sentence.

    stamp     changes when the picture may have changed, and is quick to have
    caption   as written, None where there is none; identity likewise
    """

    @property
    def origin(self) -> str: ...
    @property
    def stamp(self) -> str: ...
    @property
    def caption(self) -> str | None: ...
    @property
    def identity(self) -> str | None: ...
    @property
    def reference(self) -> bool: ...
    @property
    def has_mask(self) -> bool: ...

    def facts(self) -> Facts: ...

    def image(self) -> Image.Image: ...

    def mask(self) -> Image.Image: ...


@dataclass(frozen=True)
class Listing:
    """All items of a data set, and a sentence for each thing in it that is no item."""

    items: list[Item]
    problems: list[str]


@dataclass(frozen=True)
class Stored:
    """A picture whose bytes lie somewhere."""

    origin: str
    stamp: str
    caption: str | None
    identity: str | None
    read: Callable[[], bytes]
    read_mask: Callable[[], bytes] | None = None
    reference: bool = True

    @property
    def has_mask(self) -> bool:
        return self.read_mask is not None

    def facts(self) -> Facts:
        """Reads all of it, so that nothing is found broken in the middle of a training."""
        content = self.read()
        size = decode(content, self.origin).size
        digest = hashlib.sha256(content)
        if self.read_mask is not None:
            content = self.read_mask()
            check_mask(decode_mask(content, f"the mask of {self.origin}"), size)
            digest.update(b"mask")
            digest.update(content)
        return Facts(digest.hexdigest(), size)

    def image(self) -> Image.Image:
        return decode(self.read(), self.origin)

    def mask(self) -> Image.Image:
        if self.read_mask is None:
            raise DataError(f"{self.origin} has no mask; put one beside it.")
        return decode_mask(self.read_mask(), f"the mask of {self.origin}")


@dataclass(frozen=True)
class FileBytes:
    """The bytes of a file, or a stretch of them."""

    path: Path
    start: int = 0
    length: int | None = None

    def __call__(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(-1 if self.length is None else self.length)
        except FileNotFoundError as error:
            raise DataError(
                f"{self.path} has vanished; bring it back, or remove it from the data set."
            ) from error
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror or error}).") from error
        if self.length is not None and len(content) < self.length:
            raise DataError(f"{self.path} has become shorter than it was; bring it back.")
        return content


def file_stamp(*paths: Path) -> str:
    """Path, size and time of change of files."""
    parts = []
    for path in paths:
        found = path.stat()
        parts.append(f"{path} {found.st_size} {found.st_mtime_ns}")
    return "|".join(parts)
