"""Labels of the drawn pictures as integers, for the ruler and for the image backbone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .drawing import FACE, LOOKS, SCENES
from .identities import ATTRIBUTES, DOMAINS
from .scenes import PLACES
from .styles import COLOURLESS, STYLES

MISSING = -1
# Every domain alone, then every two of them.
COMPANIES = tuple((d,) for d in DOMAINS) + tuple(itertools.combinations(DOMAINS, 2))
# Looks that do not depend on colour, so that a sketch shows them, too; but they are small.
SHAPES = frozenset(f"{domain}:{look}" for domain in LOOKS for look in FACE & LOOKS[domain].keys())


def identity_heads() -> dict[str, int]:
    """Head name "domain.attribute" -> number of classes."""
    return {
        f"{domain}.{name}": len(values)
        for domain, attributes in ATTRIBUTES.items()
        for name, values in attributes.items()
    }


def prompt_heads() -> dict[str, tuple[str, ...]]:
    """What a caption names -> its values: looks as "domain:look", scene, style and place."""
    looks = {
        f"{domain}:{name}": tuple(values)
        for domain, table in LOOKS.items()
        for name, values in table.items()
    }
    return {**looks, "scene": tuple(SCENES), "style": tuple(STYLES), "place": tuple(PLACES)}


def heads() -> dict[str, int]:
    """Head name -> number of classes, of the identity, of what captions name, and of who is there:
    "who" the company, "left" the domain that stands left of another."""
    named = {name: len(values) for name, values in prompt_heads().items()}
    return {**identity_heads(), **named, "who": len(COMPANIES), "left": len(DOMAINS)}


def company(subjects: Sequence[str]) -> int:
    """The class of "who" for the domains in a picture."""
    return COMPANIES.index(tuple(sorted(subjects, key=DOMAINS.index)))


def labels(records: Sequence[Mapping]) -> dict[str, Tensor]:
    """One int64 (n,) tensor a head; MISSING where the picture does not show it: another domain,
    colours in a style without them, small things far away, the place of one of two."""
    table = {name: torch.full((len(records),), MISSING) for name in heads()}
    values = prompt_heads()
    for row, record in enumerate(records):
        subjects = record["subjects"]
        domains = [subject[0] for subject in subjects]
        table["scene"][row] = values["scene"].index(record["scene"])
        table["style"][row] = values["style"].index(record["style"])
        table["who"][row] = company(domains)
        if len(subjects) == 1:
            table["place"][row] = values["place"].index(record["place"])
        else:
            table["left"][row] = DOMAINS.index(domains[0])
        colours = record["style"] not in COLOURLESS
        sharp = record["style"] != "pixel art" and record["place"] != "far away"
        for (domain, *identity), words in zip(subjects, record["words"], strict=True):
            for look, word in words.items():
                name = f"{domain}:{look}"
                if sharp if name in SHAPES else colours:
                    table[name][row] = values[name].index(word)
            if colours:
                for attribute, value in zip(ATTRIBUTES[domain], identity, strict=True):
                    table[f"{domain}.{attribute}"][row] = value
    return table
