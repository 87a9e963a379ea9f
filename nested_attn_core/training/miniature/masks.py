"""Where the subject of a drawn picture is: where the picture differs from its scene."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .drawing import draw_scene, other_face
from .identities import Identity
from .scenes import render
from .styles import apply_style

DIFFERS = 10  # of 255, in any channel


@functools.cache
def _scene(name: str, style: str, size: int) -> np.ndarray:
    image = apply_style(style, draw_scene(name, size).convert("RGB"))
    return np.asarray(image).astype(np.int16)


def _differs(image: np.ndarray, record: Mapping) -> np.ndarray:
    return _differ(image, _scene(record["scene"], record["style"], image.shape[0]))


def _differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(first.astype(np.int16) - second).max(-1) > DIFFERS


def _cells(differs: np.ndarray, cells: int) -> Tensor:
    share = F.adaptive_avg_pool2d(torch.from_numpy(differs.astype(np.float32))[None], cells)[0]
    return share > 0.1


def subjects_mask(image: np.ndarray, record: Mapping, cells: int = 16) -> Tensor:
    """bool (cells, cells): the cells that show any subject, by a tenth at least.

    image (H, W, 3) uint8 with its record of the data set."""
    return _cells(_differs(image, record), cells)


def subject_mask(image: np.ndarray, record: Mapping, domain: str, cells: int = 16) -> Tensor:
    """bool (cells, cells): as `subjects_mask`, for the subject of one domain.

    Of two subjects, the left or the right half of what differs from the scene is taken. Raises
    ValueError where the domain is absent."""
    differs = _differs(image, record)
    domains = [subject[0] for subject in record["subjects"]]
    side = domains.index(domain)
    if len(domains) == 2:
        middle = image.shape[1] // 2
        differs[:, slice(middle, None) if side == 0 else slice(0, middle)] = False
    return _cells(differs, cells)


def faces_mask(
    image: np.ndarray, subjects: Sequence[Identity], seed: str, cells: int = 16
) -> Tensor:
    """bool (cells, cells): the cells that another mouth or other eyes would change, by a tenth.

    image (H, W, 3) uint8 with the subjects and the seed that it was drawn of
    (`dataset.Plan.jobs`)."""
    other = np.asarray(render(subjects, seed, size=len(image), looks=other_face).image)
    return _cells(_differ(image, other), cells)


def margin_mask(subjects: Tensor) -> Tensor:
    """bool (cells, cells): the subjects' cells, one more on every side and two more above, where
    another head, another hair or a hat would be: that nothing is there has to be learned too.

    subjects bool (cells, cells), of `subjects_mask`."""
    wide = F.max_pool2d(subjects[None].float(), 3, 1, 1)[0] > 0
    return wide | F.pad(wide[1:], (0, 0, 0, 1))


def crown_mask(subjects: Tensor) -> Tensor:
    """bool (cells, cells): the upper half of `margin_mask`, where heads, hair and hats are."""
    found = margin_mask(subjects)
    rows = found.any(1).nonzero()[:, 0]
    if len(rows):
        found[(int(rows[0]) + int(rows[-1]) + 1) // 2 :] = False
    return found
