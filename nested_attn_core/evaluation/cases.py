"""Prompts to evaluate on. Each is the caption of a real picture of held-out subjects.

So the ruler can read the real picture, too, and a generated picture is held against what is
possible, instead of against a perfect reading.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..training.miniature.drawing import SCENES
from ..training.miniature.identities import DOMAINS, Identity, identities
from ..training.miniature.scenes import PLACES, Picture, caption, phrase, render, told
from ..training.miniature.styles import STYLES

HELD_OUT_SHARE = 0.1
NAMED_STYLES = tuple(name for name in STYLES if name)
NAMED_PLACES = tuple(name for name in PLACES if name)
# (style, place) of single subjects, in turn; the training never draws both at once.
KINDS = tuple(
    itertools.chain.from_iterable(
        (("", ""), (style, ""), ("", place))
        for style, place in zip(NAMED_STYLES, NAMED_PLACES, strict=True)
    )
) + (("", ""),)


@dataclass(frozen=True)
class Case:
    """Subjects, and a real picture of them whose caption is the prompt."""

    who: tuple[Identity, ...]
    picture: Picture

    def prompt(self, nouns: Sequence[str] | None = None) -> str:
        """The caption with `nouns` for who is in it; the plain class words where None."""
        nouns = [identity.domain for identity in self.who] if nouns is None else nouns
        parts = [phrase(noun, words) for noun, words in zip(nouns, self.picture.words, strict=True)]
        return caption(parts, self.picture.scene, self.picture.style, self.picture.place)

    @property
    def told(self) -> str:
        """The caption that also names the identity's attributes, as the base's training has it."""
        return told(self.record)

    @property
    def record(self) -> dict:
        """As the data set's records, for attributes.labels."""
        return {
            "scene": self.picture.scene,
            "style": self.picture.style,
            "place": self.picture.place,
            "subjects": [[who.domain, *who.values] for who in self.who],
            "words": self.picture.words,
        }


def prompt_held_out(domain: str, words: dict[str, str], scene: str, style: str, place: str) -> bool:
    """True for a tenth of the prompt combinations of a single subject, chosen by hash.

    The base's training draws every combination at random, so that it has seen most of these; what
    no training has seen are the identities."""
    text = "|".join([domain, *(f"{k}={v}" for k, v in sorted(words.items())), scene, style, place])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def subjects(domain: str, count: int) -> tuple[Identity, ...]:
    """The first `count` held-out identities. Raises ValueError where there are not so many."""
    pool = identities(domain, held_out=True)
    if count > len(pool):
        raise ValueError(
            f"There are {len(pool)} held-out subjects of the domain {domain}, and {count} are "
            "asked for; ask for fewer."
        )
    return pool[:count]


def references(domain: str, count: int, which: str) -> list[Picture]:
    """One plain, large, centred picture of each of the first `count` held-out subjects; another
    `which`, other pictures."""
    return [
        render((who,), f"eval {which} {who.key}", style="", place="")
        for who in subjects(domain, count)
    ]


def single_cases(
    domain: str, pool: Sequence[Identity], count: int, seed: int, held_out_prompts: bool = False
) -> list[Case]:
    """`count` prompts of one subject of `pool` in turn, over styles and places in turn."""
    made = []
    for row in range(count):
        turn, place = divmod(row, len(pool))
        who, kind = pool[place], KINDS[(row + turn) % len(KINDS)]
        key = f"eval {domain} {seed} {row}"
        made.append(_held_out_case(who, kind, key) if held_out_prompts else _case(who, kind, key))
    return made


def pair_cases(pools: Mapping[str, Sequence[Identity]], count: int, seed: int) -> list[Case]:
    """`count` prompts of two subjects of different domains, every ordered pair in turn; every
    second one in a style."""
    orders = list(itertools.permutations(DOMAINS, 2))
    rng = random.Random(f"eval pairs {seed}")
    made = []
    for row in range(count):
        turn, order = divmod(row, len(orders))
        who = tuple(rng.choice(pools[domain]) for domain in orders[order])
        style = NAMED_STYLES[turn // 2 % len(NAMED_STYLES)] if turn % 2 else ""
        made.append(Case(who, render(who, f"eval pair {seed} {row}", style=style)))
    return made


def _case(who: Identity, kind: tuple[str, str], key: str) -> Case:
    style, place = kind
    return Case((who,), render((who,), key, style=style, place=place))


def _held_out_case(who: Identity, kind: tuple[str, str], key: str) -> Case:
    style, place = kind
    rng = random.Random(key)
    for attempt in itertools.count():
        seed = f"{key} {attempt}"
        # The looks of a picture depend on its seed alone, so that a scene can be chosen for them.
        words = render((who,), seed, scene="city", style=style, place=place).words[0]
        fitting = [s for s in SCENES if prompt_held_out(who.domain, words, s, style, place)]
        if fitting:
            scene = rng.choice(fitting)
            return Case((who,), render((who,), seed, scene=scene, style=style, place=place))
    raise AssertionError
