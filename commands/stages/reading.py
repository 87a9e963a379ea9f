"""What a network reads off drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from .base import pixels
from .common import device

AT_ONCE = 128


@torch.no_grad()
def likeliest(read: Callable[[Tensor], Mapping[str, Tensor]], images: np.ndarray):
    """The likeliest class of each head: int64 (n,) by name, on the CPU.

    `read` takes pixels (B, 3, H, W), -1 to 1, and gives logits (B, classes) by head; `images` are
    (n, H, W, 3) uint8.
    """
    parts = []
    for at in range(0, len(images), AT_ONCE):
        logits = read(pixels(images[at : at + AT_ONCE]).to(device()))
        parts.append({name: found.argmax(-1).cpu() for name, found in logits.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
