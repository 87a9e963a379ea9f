"""Safetensors files written whole or not at all, for whom the umask lets read them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_whole(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes beside `path`, then renames; an interruption leaves what was there.

    Raises OSError or SafetensorError where it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.touch()
        mode = stat.S_IMODE(unfinished.stat().st_mode)
        save_file(dict(tensors), str(unfinished), metadata=dict(metadata))
        # The library writes a temporary file of its own, which only its owner may read.
        os.chmod(unfinished, mode)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
