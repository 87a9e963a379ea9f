"""One subject of several by itself: its part of the picture, and whose looks it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..training.miniature.attributes import company
from ..training.miniature.drawing import draw_scene
from ..training.miniature.identities import ATTRIBUTES, Identity
from ..training.miniature.styles import apply_style

# The attribute of each domain whose values are colours and that shows most.
MAIN_COLOUR = {"person": "hair", "kitten": "coat", "robot": "head"}


def clean_scene(scene: str, style: str, size: int) -> Tensor:
    """The scene without anybody, (size, size, 3), 0 to 1."""
    image = apply_style(style, draw_scene(scene, size).convert("RGB"))
    return torch.from_numpy(np.asarray(image).copy()).float() / 255


def columns(number: int, of: int, width: int) -> slice:
    """The columns of part `number` of `of` equal ones, from the left."""
    return slice(round(number * width / of), round((number + 1) * width / of))


def alone(picture: Tensor, scene: Tensor, number: int, of: int) -> Tensor:
    """Part `number` of a picture (H, W, 3); everywhere else the clean scene (H, W, 3)."""
    here = columns(number, of, picture.shape[1])
    made = scene.clone()
    made[:, here] = picture[:, here]
    return made


def shows(answers: Mapping[str, Tensor], row: int, domain: str) -> bool:
    """Whether a classifier that was given a part alone sees one subject of the domain there."""
    return int(answers["who"][row]) == company([domain])


def leaked(
    answers: Mapping[str, Tensor],
    row: int,
    who: Sequence[Identity],
    number: int,
    likeness: Sequence[float],
) -> bool:
    """Whether subject `number` of `who` looks like another one of them, by the part of it.

    Another domain: the part shows that one's domain, or has that one's main colour and not its
    own. The same domain: `likeness` (of the part to the reference of each of `who`, of any use for
    that domain only) is larger for the other one.
    """
    own = who[number]
    seen = _main_colour(answers, row, own.domain)

    def like(at: int, other: Identity) -> bool:
        if other.domain == own.domain:
            return likeness[at] > likeness[number]
        theirs = other[MAIN_COLOUR[other.domain]]
        coloured = seen == theirs != own[MAIN_COLOUR[own.domain]]
        return coloured or shows(answers, row, other.domain)

    return any(like(at, other) for at, other in enumerate(who) if at != number)


def _main_colour(answers: Mapping[str, Tensor], row: int, domain: str) -> str:
    name = MAIN_COLOUR[domain]
    return ATTRIBUTES[domain][name][int(answers[f"{domain}.{name}"][row])]
