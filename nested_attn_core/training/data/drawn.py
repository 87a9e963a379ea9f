"""The miniature's drawn pictures as a data set for one domain."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..miniature.dataset import shards, shows_well
from ..miniature.masks import crown_mask, margin_mask, subject_mask
from ..miniature.scenes import caption, phrase
from .example import PLACEHOLDER, DataError
from .items import Facts, Item, Listing, file_stamp

# What the rest of a subject counts beside its crown: robots are told apart by the shapes of their
# heads, which take few cells, so that what the error asks of them is lost in the noise of others.
_BESIDE_CROWN = {"robot": 1 / 3}
_LOCAL_HEADER = 30  # bytes of a zip member's header, before its name and extra field


class Shard:
    """One shard of miniature.dataset, its pictures mapped from the disk."""

    def __init__(self, path: Path):
        self.path = path
        self.stamp = file_stamp(path)

    @cached_property
    def images(self) -> np.ndarray:
        """(n, H, W, 3) uint8. numpy maps no arrays inside a .npz, though they lie there as is."""
        with zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo("images.npy")
        with self.path.open("rb") as file:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            name, extra = struct.unpack("<HH", header[26:30])
            file.seek(member.header_offset + _LOCAL_HEADER + name + extra)
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            return np.memmap(self.path, kind, "r", file.tell(), shape)

    def records(self) -> list[dict]:
        with np.load(self.path, allow_pickle=False) as content:
            return json.loads(str(content["records"]))


@dataclass(frozen=True)
class DrawnItem:
    """One drawn picture that shows a subject of `domain`.

    A picture of two subjects, or in a style that hides what a subject looks like, is a target
    only.
    """

    shard: Shard
    row: int
    domain: str
    record: dict

    has_mask = True

    @property
    def origin(self) -> str:
        return f"{self.shard.path.name}/{self.row}"

    @property
    def stamp(self) -> str:
        return f"{self.shard.stamp} {self.row} {self.domain} {self._mask_kind}"

    @property
    def caption(self) -> str:
        """Nothing but the placeholder for the subject, and class words for others."""
        parts = [
            phrase(PLACEHOLDER if who[0] == self.domain else who[0], words)
            for who, words in zip(self.record["subjects"], self.record["words"], strict=True)
        ]
        return caption(parts, *(self.record[name] for name in ("scene", "style", "place")))

    @property
    def identity(self) -> str:
        (who,) = (who for who in self.record["subjects"] if who[0] == self.domain)
        return "-".join(map(str, who[1:]))

    @property
    def reference(self) -> bool:
        return shows_well(self.record)

    def facts(self) -> Facts:
        pixels = self._pixels()
        digest = hashlib.sha256(f"{self.domain} {pixels.shape} {self._mask_kind}".encode())
        digest.update(pixels.tobytes())
        return Facts(digest.hexdigest(), (pixels.shape[1], pixels.shape[0]))

    def image(self) -> Image.Image:
        return Image.fromarray(self._pixels())

    def mask(self) -> Image.Image:
        """The subject and what is around it: an outline has two sides to learn. In some domains
        the crown is white and the rest grey."""
        pixels = self._pixels()
        subject = subject_mask(pixels, self.record, self.domain)
        cells = margin_mask(subject) * _BESIDE_CROWN.get(self.domain, 1.0)
        cells[crown_mask(subject)] = 1.0
        small = Image.fromarray((cells * 255).round().byte().numpy())
        return small.resize(pixels.shape[1::-1], Image.Resampling.NEAREST)

    @property
    def _mask_kind(self) -> str:
        """In the keys, so that no mask is read that was kept before it had another content."""
        return "margin, crown" if self.domain in _BESIDE_CROWN else "margin"

    def _pixels(self) -> np.ndarray:
        try:
            return np.array(self.shard.images[self.row])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"The drawn pictures in {self.shard.path} have vanished or are damaged; draw them "
                "again: dev.py train data."
            ) from error


def list_drawn(folder: Path, domain: str) -> Listing:
    """The drawn pictures that show a subject of `domain`."""
    paths = shards(folder)
    items: list[Item] = []
    problems = []
    for path in paths:
        try:
            shard = Shard(path)
            items += [
                DrawnItem(shard, row, domain, record)
                for row, record in enumerate(shard.records())
                if any(who[0] == domain for who in record["subjects"])
            ]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            problems.append(f"{path.name} is damaged ({error}); delete it and draw it again.")
    if not paths:
        raise DataError(f"{folder} holds no drawn pictures; draw them first: dev.py train data.")
    return Listing(items, problems)
