"""Labels of the drawn pictures as integers, for the ruler and for the image backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .drawing import SCENES
from .identities import ATTRIBUTES, DOMAINS

MISSING = -1


def heads() -> dict[str, int]:
    """Head name -> number of classes: every identity attribute, the scene, and who is there."""
    counts = {
        f"{domain}.{name}": len(values)
        for domain, attributes in ATTRIBUTES.items()
        for name, values in attributes.items()
    }
    return {**counts, "scene": len(SCENES), "who": len(DOMAINS) + 1}


def labels(records: Sequence[dict]) -> dict[str, Tensor]:
    """One int64 (n,) tensor a head; MISSING where the picture does not show that domain.

    "who" is the domain's index for a single subject and the last class for two subjects."""
    names = tuple(heads())
    table = {name: torch.full((len(records),), MISSING) for name in names}
    scenes = tuple(SCENES)
    for row, record in enumerate(records):
        table["scene"][row] = scenes.index(record["scene"])
        subjects = record["subjects"]
        who = DOMAINS.index(subjects[0][0]) if len(subjects) == 1 else len(DOMAINS)
        table["who"][row] = who
        for domain, *values in subjects:
            for attribute, value in zip(ATTRIBUTES[domain], values, strict=True):
                table[f"{domain}.{attribute}"][row] = value
    return table
