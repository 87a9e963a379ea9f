"""The trainer's examples: a source of pictures, their features from the disk, in batches."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ..batches import Batch, Encoders, Text
from ..config import TrainingConfig
from ..objective import sample_generator
from .ahead import ReadAhead
from .augment import Augmentation
from .example import Source
from .order import Order, Pairs
from .shapes import Fitting, fitted_mask, mask_cells, pixels
from .store import FeatureStore, as_kept
from .text import stack_text

Kind = Literal["latents", "vision", "text"]
Progress = Callable[[str, int, int], None]
KEY_OF: dict[Kind, str] = {"latents": "vae", "vision": "vision", "text": "text"}
# A reference is scaled down to this before the image model scales it to its own, far smaller size.
LARGEST_REFERENCE = 1024
_PIXELS_AT_ONCE = 1 << 22
_BLOCK_BYTES = 1 << 26
_AUGMENTATION = 1  # raise it where augmentation changes, so that what is kept is made again


@dataclass(frozen=True)
class Request:
    """One feature of one row; `variant` is of the reference, None for the picture as it is."""

    kind: Kind
    row: int
    variant: int | None = None


@dataclass(frozen=True)
class _Wanted:
    """What one example needs."""

    latents: Request
    vision: Request
    text: Request

    @property
    def requests(self) -> tuple[Request, Request, Request]:
        return (self.latents, self.vision, self.text)


class TrainingData:
    """Examples of a training; what an example's number gives depends on seed and number alone.

    size   edge of the base's own pictures in pixels, for data.size = 0

    Raises DataError, in one sentence, where nothing can be learnt from the pictures, and later
    where one of them has vanished.
    """

    def __init__(self, source: Source, encoders: Encoders, config: TrainingConfig, size: int):
        data = config.data
        self.source = source
        self.encoders = encoders
        self.fitting = Fitting(data.size or size, data.fit, data.buckets)
        self._augmentation = Augmentation(data.mask_background)
        self._seed = config.run.seed
        self._kept = frozenset(data.cache)
        rows = [source[row] for row in range(len(source))]
        self._captions = [row.caption for row in rows]
        self._keys = [row.key for row in rows]
        self._sizes = [self.fitting.target(row.size) for row in rows]
        self.identities = [row.identity for row in rows]
        self.pairs = Pairs(
            self.identities, [row.reference for row in rows], data.augment, data.variants
        )
        self.held_out = self._hold_out(data.held_out)
        self.targets = [
            row
            for row, who in enumerate(self.identities)
            if who not in self.held_out and self.pairs.partners(row)
        ]
        shapes = [self._sizes[row] for row in self.targets]
        self.order = Order(self.pairs, self.targets, shapes, config.run.batch, self._seed)
        self.stores: dict[Kind, FeatureStore] = {
            kind: FeatureStore(Path(data.cache_folder), kind, encoders.keys[KEY_OF[kind]])
            for kind in KEY_OF
            if kind in self._kept
        }
        self._ahead: ReadAhead[Request, Tensor] = ReadAhead(data.threads)
        self._last: int | None = None

    def subjects(self, held_out: bool) -> dict[str, list[int]]:
        """Rows that may be a reference, by identity, of the one or the other side of the split."""
        return {
            who: rows
            for who, rows in self.pairs.by_identity.items()
            if (who in self.held_out) == held_out
        }

    def prepare(self, progress: Progress | None = None, part: int = 0, of: int = 1) -> None:
        """Computes what is not on the disk yet: this process's part of it.

        A run that was stopped goes on where it was. With several processes, all must have prepared
        before one calls `refresh`.
        """
        for kind, store in self.stores.items():
            wanted = {self._key(request): request for request in self._needed(kind)}
            # Parts of what is wanted, as what is missing may differ while others write.
            missing = store.missing(list(wanted)[part::of])
            done = 0
            for entries in self._computed([wanted[key] for key in missing]):
                store.write(entries)
                done += len(entries)
                if progress is not None:
                    progress(kind, done, len(missing))

    def refresh(self) -> None:
        """Sees what other processes have prepared."""
        for store in self.stores.values():
            store.refresh()

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The examples of these numbers; all of one step, so that they are of one size."""
        examples = [self._example(number) for number in numbers]
        found = self._features([request for example in examples for request in example.requests])
        self._expect(numbers)
        latents = [found[example.latents] for example in examples]
        context, pooled, positions = stack_text([_text(found[e.text]) for e in examples])
        width, height = self._sizes[examples[0].latents.row]
        return Batch(
            latents=torch.stack([entry["latents"] for entry in latents]),
            context=context,
            positions=positions,
            features=torch.stack([found[e.vision]["vision"] for e in examples]),
            conditions=self.encoders.conditions(pooled, height, width),
            mask=_masks(latents),
            captions=tuple(self._captions[example.text.row] for example in examples),
        )

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._ahead.close()

    def _example(self, number: int) -> _Wanted:
        choice = self.order.choice(number)
        return _Wanted(
            latents=Request("latents", choice.target),
            vision=Request("vision", choice.reference, choice.variant),
            text=Request("text", choice.target),
        )

    def _hold_out(self, share: float) -> frozenset[str]:
        """The same subjects whatever else the data set holds, as far as the share allows."""
        if share == 0:
            return frozenset()
        names = sorted(
            set(self.identities), key=lambda name: hashlib.sha256(name.encode()).hexdigest()
        )
        # One at least on either side, where there are two.
        return frozenset(names[: min(len(names) - 1, max(1, round(share * len(names))))])

    def _needed(self, kind: Kind) -> Iterator[Request]:
        """Everything of a kind that a batch may ask for."""
        if kind != "vision":
            yield from (Request(kind, row) for row in self.targets)
            return
        pairs = self.pairs
        for who in dict.fromkeys(self.identities[row] for row in self.targets):
            rows = pairs.by_identity[who]
            augmented = pairs.augment == "always" or len(rows) == 1
            for row in rows:
                if pairs.augment != "always":
                    yield Request(kind, row)
                if augmented and pairs.augment != "never":
                    yield from (Request(kind, row, n) for n in range(pairs.variants))

    def _key(self, request: Request) -> str:
        """What an entry is kept under: all that it depends on, save for the models."""
        if request.kind == "text":
            return hashlib.sha256(self._captions[request.row].encode()).hexdigest()
        key = self._keys[request.row]
        if request.kind == "latents":
            width, height = self._sizes[request.row]
            return f"{key} {width}x{height} {self.fitting.fit}"
        if request.variant is None:
            return key
        return f"{key} {_AUGMENTATION}.{request.variant} {self._augmentation.mask_background}"

    def _features(self, requests: Sequence[Request]) -> dict[Request, dict[str, Tensor]]:
        found: dict[Request, dict[str, Tensor]] = {}
        for request in dict.fromkeys(requests):
            store = self.stores.get(request.kind)
            entry = store.read(self._key(request)) if store is not None else None
            if entry is not None:
                found[request] = entry
        missing = [request for request in dict.fromkeys(requests) if request not in found]
        by_key = {(r.kind, self._key(r)): r for r in missing}
        for kind in KEY_OF:
            same = [request for request in missing if request.kind == kind]
            for entries in self._computed(same):
                for key, entry in entries.items():
                    kept = as_kept(entry) if kind in self._kept else entry
                    found[by_key[kind, key]] = dict(kept)
        for request in missing:  # two rows may have one caption
            found[request] = found[by_key[request.kind, self._key(request)]]
        return found

    def _computed(self, requests: Sequence[Request]) -> Iterator[dict[str, dict[str, Tensor]]]:
        """Entries by key, in portions that are worth a block; all requests are of one kind."""
        portion: dict[str, dict[str, Tensor]] = {}
        size = 0
        groups = list(self._groups(requests))
        for group, coming in zip(groups, [*groups[1:], ()], strict=False):
            for request, entry in zip(group, self._encoded(group, coming), strict=True):
                portion[self._key(request)] = entry
                size += sum(tensor.nbytes for tensor in entry.values())
            if size > _BLOCK_BYTES:
                yield portion
                portion, size = {}, 0
        if portion:
            yield portion

    def _groups(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        """As many as fit into memory at once."""
        if not requests:
            return
        area = 1
        if requests[0].kind == "latents":
            area = self.fitting.size**2
        elif requests[0].kind == "vision":
            areas = (math.prod(self.source[request.row].size) for request in requests)
            area = min(LARGEST_REFERENCE**2, max(areas))
        at_once = max(1, min(64, _PIXELS_AT_ONCE // area))
        for first in range(0, len(requests), at_once):
            yield requests[first : first + at_once]

    def _encoded(
        self, group: Sequence[Request], coming: Sequence[Request]
    ) -> list[dict[str, Tensor]]:
        """What a group asks for; pictures of the one that is coming are read meanwhile."""
        if group[0].kind == "text":
            texts = self.encoders.text([self._captions[request.row] for request in group])
            return [_entry(text) for text in texts]
        pictures = self._ahead.take({r: lambda r=r: self._picture(r) for r in group})
        self._ahead.expect({r: lambda r=r: self._picture(r) for r in coming}, alone=False)
        by_shape: dict[tuple[int, ...], list[Request]] = defaultdict(list)
        for request in group:
            by_shape[tuple(pictures[request].shape)].append(request)
        found: dict[Request, dict[str, Tensor]] = {}
        encode = self.encoders.latents if group[0].kind == "latents" else self.encoders.features
        for same in by_shape.values():
            rows = encode(torch.stack([pictures[request] for request in same]))
            for request, row in zip(same, rows, strict=True):
                found[request] = {request.kind: row}
        for request in group:
            if request.kind == "latents":
                self._add_mask(request, found[request])
        return [found[request] for request in group]

    def _add_mask(self, request: Request, entry: dict[str, Tensor]) -> None:
        load = self.source[request.row].mask
        if load is not None:
            mask = fitted_mask(load, self.fitting, self._sizes[request.row])
            height, width = entry["latents"].shape[-2:]
            entry["mask"] = mask_cells(mask, height, width)

    def _picture(self, request: Request) -> Tensor:
        """(H, W, 3), the picture as the encoder of the request takes it."""
        example = self.source[request.row]
        picture = example.image()
        if request.kind == "latents":
            return pixels(self.fitting.apply(picture, self._sizes[request.row]))
        mask = example.mask
        if min(picture.size) > LARGEST_REFERENCE:
            scale = LARGEST_REFERENCE / min(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        if request.variant is not None:
            lots = sample_generator(0, request.variant, f"augment {example.key}")
            picture = self._augmentation(picture, mask, lots)
        return pixels(picture)

    def _expect(self, numbers: Sequence[int]) -> None:
        """Starts to read what the next call will need, if it goes on as the last one did."""
        stride = numbers[0] - self._last if self._last is not None else len(numbers)
        self._last = numbers[0]
        if stride <= 0 or {"latents", "vision"} <= self._kept:
            return
        coming = [self._example(number + stride) for number in numbers]
        self._ahead.expect(
            {
                request: lambda request=request: self._picture(request)
                for example in coming
                for request in example.requests
                if request.kind != "text" and request.kind not in self._kept
            }
        )


def _entry(text: Text) -> dict[str, Tensor]:
    positions = torch.tensor(text.positions, dtype=torch.int64)
    entry = {"context": text.context, "positions": positions}
    return entry if text.pooled is None else {**entry, "pooled": text.pooled}


def _text(entry: dict[str, Tensor]) -> Text:
    return Text(entry["context"], tuple(entry["positions"].tolist()), entry.get("pooled"))


def _masks(entries: Sequence[dict[str, Tensor]]) -> Tensor | None:
    """(B, 1, h, w); None where no example has a mask."""
    if not any("mask" in entry for entry in entries):
        return None
    empty = torch.zeros(1, *entries[0]["latents"].shape[-2:])
    return torch.stack([entry.get("mask", empty) for entry in entries])
