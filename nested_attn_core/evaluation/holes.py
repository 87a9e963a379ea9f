"""Photos with a hole to put a subject into: a real picture of two, from which one was taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..training.miniature.drawing import SCENES
from ..training.miniature.identities import DOMAINS, Identity
from ..training.miniature.scenes import IMAGE_SIZE, render
from .cases import Case
from .regions import clean_scene, columns

# Above it no subject of two reaches; a multiple of the 8 pixels that a latent cell has.
TOP = 32


@dataclass(frozen=True)
class Hole:
    """A case of two subjects, of which `number` (0 left, 1 right) is to be put in."""

    case: Case
    number: int

    @property
    def who(self) -> Identity:
        return self.case.who[self.number]

    def prompt(self, name: str | None = None) -> str:
        """The caption with the class words, but `name` for the subject of the hole where given."""
        nouns = [who.domain for who in self.case.who]
        nouns[self.number] = name or nouns[self.number]
        return self.case.prompt(nouns)

    @property
    def record(self) -> dict:
        """The subject of the hole as the only one of a record, for attributes.labels."""
        record = self.case.record
        return {
            **record,
            "subjects": [record["subjects"][self.number]],
            "words": [record["words"][self.number]],
        }

    @property
    def mask(self) -> Tensor:
        """float32 (H, W): 1 in the hole."""
        mask = torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
        mask[TOP:, columns(self.number, 2, IMAGE_SIZE)] = 1
        return mask

    @property
    def real(self) -> Tensor:
        """The real picture of both, (H, W, 3), 0 to 1."""
        return torch.from_numpy(np.asarray(self.case.picture.image).copy()).float() / 255

    @property
    def scene(self) -> Tensor:
        """The scene without anybody, (H, W, 3), 0 to 1."""
        return clean_scene(self.case.picture.scene, self.case.picture.style, IMAGE_SIZE)

    @property
    def photo(self) -> Tensor:
        """The real picture with the clean scene in the subject's half, (H, W, 3), 0 to 1."""
        photo, here = self.real, columns(self.number, 2, IMAGE_SIZE)
        photo[:, here] = self.scene[:, here]
        return photo


def holes(
    pools: Mapping[str, Sequence[Identity]], domain: str, count: int, seed: int
) -> list[Hole]:
    """`count` holes for the domain's subjects in turn, on the right and on the left in turn, beside
    subjects of the other domains and in the scenes in turn."""
    others, made = [name for name in DOMAINS if name != domain], []
    for row in range(count):
        who, number = pools[domain][row % len(pools[domain])], (row + 1) % 2
        mates = pools[others[row // 2 % len(others)]]
        pair = [mates[row % len(mates)], who] if number else [who, mates[row % len(mates)]]
        scene = tuple(SCENES)[row % len(SCENES)]
        picture = render(pair, f"eval hole {domain} {seed} {row}", scene=scene, style="")
        made.append(Hole(Case(tuple(pair), picture), number))
    return made
