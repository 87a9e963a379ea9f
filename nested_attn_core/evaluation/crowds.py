"""Prompts that name several held-out subjects, side by side from left to right."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..training.miniature.drawing import SCENES, shown, words_of
from ..training.miniature.identities import DOMAINS, Identity
from ..training.miniature.scenes import caption, phrase

# Styles that keep colours, without which identity cannot be read.
STYLES = ("", "", "", "pixel art")


@dataclass(frozen=True)
class Crowd:
    """Subjects from left to right, the words for what varies in each, and where they are."""

    who: tuple[Identity, ...]
    words: tuple[dict[str, str], ...]
    scene: str
    style: str

    def prompt(self, nouns: Sequence[str] | None = None) -> str:
        """The caption with `nouns` for the subjects; the class words where None."""
        nouns = [identity.domain for identity in self.who] if nouns is None else nouns
        phrases = [phrase(noun, words) for noun, words in zip(nouns, self.words, strict=True)]
        return caption(phrases, self.scene, self.style)

    def alone(self, number: int) -> Crowd:
        """The same subject with the same words in the same scene, by itself."""
        return replace(self, who=(self.who[number],), words=(self.words[number],))

    def record(self, number: int) -> dict:
        """Subject `number` as the only one of a record, for attributes.labels."""
        one = self.who[number]
        return {
            "scene": self.scene,
            "style": self.style,
            "place": "",
            "subjects": [[one.domain, *one.values]],
            "words": [self.words[number]],
        }


def kinds(count: int) -> list[tuple[str, ...]]:
    """The domains of `count` subjects, in every order of different ones; of two, also two of the
    same domain."""
    different = list(itertools.permutations(DOMAINS, count))
    return different + [(domain,) * 2 for domain in DOMAINS] if count == 2 else different


def crowds(
    pools: Mapping[str, Sequence[Identity]], size: int, count: int, seed: int
) -> list[Crowd]:
    """`count` prompts of `size` different subjects of the pools, every kind in turn."""
    rng = random.Random(f"eval crowd {size} {seed}")
    made = []
    for row in range(count):
        domains = kinds(size)[row % len(kinds(size))]
        chosen: list[Identity] = []
        for domain in domains:
            chosen.append(rng.choice([who for who in pools[domain] if who not in chosen]))
        words = tuple(shown(who, words_of(who.domain, rng)) for who in chosen)
        style = STYLES[row // len(kinds(size)) % len(STYLES)]
        made.append(Crowd(tuple(chosen), words, rng.choice(tuple(SCENES)), style))
    return made
