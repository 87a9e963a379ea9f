"""The pictures that ship with the pack, in `models/references`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError

_FOLDER = Path(__file__).resolve().parents[2] / "models" / "references"


def example_names() -> list[str]:
    """What Example Picture offers, such as "person 1"."""
    return list(_examples())


def load_example(name: str) -> Tensor:
    """The picture, float32 (1, H, W, 3), 0 to 1; raises NestedAttentionError if there is none."""
    path = _examples().get(name)
    if path is None:
        raise NestedAttentionError(
            f'There is no example picture "{name}"; choose one of the list, or install the pack '
            "again if the list is empty."
        )
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise NestedAttentionError(
            f'The example picture "{name}" cannot be read; install the pack again.'
        ) from error
    return torch.from_numpy(pixels.copy()).float()[None] / 255


def _examples() -> dict[str, Path]:
    return {f"{path.parent.name} {path.stem}": path for path in sorted(_FOLDER.glob("*/*.png"))}
