"""Features kept on the disk: latents, image features and text features, by what they were made of.

Entries lie in blocks, safetensors files that are mapped into memory. A block is written whole or
not at all. Every entry carries a checksum: one that does not fit is forgotten, and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...whole_files import save_whole
from .example import DataError

log = logging.getLogger("nested_attention")

Entry = Mapping[str, Tensor]
_SUFFIX = ".safetensors"


class _Place(NamedTuple):
    block: Path
    row: int
    checksum: int


class FeatureStore:
    """Entries {field: tensor} by key. Safe to read from several threads; several processes may
    write at once, and each sees what was there when it last called `refresh`.

    fingerprint  of what makes the features; another one is another store
    """

    def __init__(self, folder: Path, kind: str, fingerprint: str):
        digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self.folder = folder / f"{kind}-{digest}"
        self._places: dict[str, _Place] = {}
        self._open: dict[Path, dict[str, Tensor]] = {}
        self._lock = threading.Lock()
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without an entry, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def refresh(self) -> None:
        """Finds the blocks that others have written since."""
        known = {place.block for place in self._places.values()}
        for block in sorted(self.folder.glob(f"*{_SUFFIX}")):
            if block not in known:
                self._places.update(_read_directory(block))

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Keeps entries; those of one shape share a block. Floating tensors are kept in fp16 where
        they fit. Raises DataError where the disk is full or not to be written to."""
        groups: dict[tuple, dict[str, dict[str, Tensor]]] = {}
        for key, entry in entries.items():
            packed = {name: _packed(tensor) for name, tensor in entry.items()}
            shape = tuple(sorted((n, str(t.dtype), *t.shape) for n, t in packed.items()))
            groups.setdefault(shape, {})[key] = packed
        for group in groups.values():
            self._write_block(group)

    def read(self, key: str) -> dict[str, Tensor] | None:
        """An entry, floating tensors in fp32; None where there is none or a broken one."""
        place = self._places.get(key)
        if place is None:
            return None
        try:
            entry = {name: tensor[place.row] for name, tensor in self._block(place.block).items()}
            if _checksum(entry) != place.checksum:
                raise ValueError("the checksum does not fit")
        except (OSError, ValueError, SafetensorError) as error:
            log.warning(
                "A cached entry in %s is broken (%s); it is made again.", place.block.name, error
            )
            self._places.pop(key, None)
            return None
        return _widened(entry)

    def _block(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a block; they lie in mapped memory, so that nothing is read yet."""
        with self._lock:
            if path not in self._open:
                with safe_open(str(path), "pt") as file:
                    names = file.keys()
                    self._open[path] = {name: file.get_tensor(name) for name in names}
            return self._open[path]

    def _write_block(self, group: Mapping[str, dict[str, Tensor]]) -> None:
        keys = list(group)
        names = list(group[keys[0]])
        tensors = {name: torch.stack([group[key][name] for key in keys]) for name in names}
        checksums = [_checksum(group[key]) for key in keys]
        name = hashlib.sha256(json.dumps([keys, checksums]).encode()).hexdigest()[:32]
        block = self.folder / (name + _SUFFIX)
        metadata = {"keys": json.dumps(keys), "checksums": json.dumps(checksums)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_whole(block, tensors, metadata)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"The cache in {self.folder} cannot be written ({error}); free some space, or set "
                "data.cache_folder or data.cache."
            ) from error
        self._places.update(_read_directory(block))


def _read_directory(block: Path) -> dict[str, _Place]:
    """Where the entries of a block are; nothing for a block that is no whole file."""
    try:
        with safe_open(str(block), "pt") as file:
            metadata = file.metadata() or {}
        keys, checksums = (json.loads(metadata[name]) for name in ("keys", "checksums"))
        return {
            key: _Place(block, row, checksum)
            for row, (key, checksum) in enumerate(zip(keys, checksums, strict=True))
        }
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.warning("The cached block %s is broken (%s); it is made again.", block.name, error)
        block.unlink(missing_ok=True)
        return {}


def as_kept(entry: Entry) -> dict[str, Tensor]:
    """An entry as `read` gives it back, so that a first and a second run compute alike."""
    return _widened({name: _packed(tensor) for name, tensor in entry.items()})


def _widened(entry: Entry) -> dict[str, Tensor]:
    return {n: t.float() if t.is_floating_point() else t for n, t in entry.items()}


def _packed(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.contiguous()
    half = tensor.half()
    fits = bool(torch.isfinite(half).all()) or not bool(torch.isfinite(tensor).all())
    return (half if fits else tensor.float()).contiguous()


def _checksum(entry: Entry) -> int:
    value = 0
    for name in sorted(entry):
        raw = entry[name].contiguous().reshape(-1).view(torch.uint8).numpy().data
        value = zlib.crc32(raw, zlib.crc32(name.encode(), value))
    return value
