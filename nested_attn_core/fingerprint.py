"""Hashes that say whether two things are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_CHUNK = 1 << 20
_SAMPLE = 64


def content_fingerprint(parts: Iterable[object]) -> str:
    """sha256 over tensors (dtype, shape, values) and the repr of everything else, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            _add(digest, f"{part.dtype} {tuple(part.shape)}".encode())
            _add(digest, _raw(part))
        else:
            _add(digest, repr(part).encode())
    return digest.hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and the first values of each floating tensor, in fp16.

    For an image backbone: the same for its weights in fp32 and in fp16, and quick for any size.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if tensor.is_floating_point():
            _add(digest, f"{name} {tuple(tensor.shape)}".encode())
            sample = tensor.detach().flatten()[:_SAMPLE]
            _add(digest, _raw(sample.to("cpu", torch.float16)))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def _add(digest: hashlib._Hash, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)
