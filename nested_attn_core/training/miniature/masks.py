"""Where the subject of a drawn picture is: where the picture differs from its scene."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .drawing import draw_scene
from .styles import apply_style

DIFFERS = 10  # of 255, in any channel


@functools.cache
def _scene(name: str, style: str, size: int) -> np.ndarray:
    image = apply_style(style, draw_scene(name, size).convert("RGB"))
    return np.asarray(image).astype(np.int16)


def subject_mask(image: np.ndarray, record: Mapping, domain: str, cells: int = 16) -> Tensor:
    """bool (cells, cells): the cells that show the domain's subject, by a tenth at least.

    image (H, W, 3) uint8 with its record of the data set; of two subjects the left or the right
    half of what differs from the scene is taken. Raises ValueError where the domain is absent."""
    size = image.shape[0]
    scene = _scene(record["scene"], record["style"], size)
    differs = np.abs(image.astype(np.int16) - scene).max(-1) > DIFFERS
    domains = [subject[0] for subject in record["subjects"]]
    side = domains.index(domain)
    if len(domains) == 2:
        half = slice(size // 2, None) if side == 0 else slice(0, size // 2)
        differs[:, half] = False
    share = F.adaptive_avg_pool2d(torch.from_numpy(differs.astype(np.float32))[None], cells)[0]
    return share > 0.1
