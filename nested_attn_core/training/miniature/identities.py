"""Who exists in the miniature world: every identity is one combination of named attributes."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

HELD_OUT_SHARE = 0.1

HAIR_STYLES = {
    "balding": "balding",
    "fringe": "bobBangs",
    "bob": "bobCut",
    "topknot": "bunUndercut",
    "curly": "curly",
    "curly bun": "curlyBun",
    "high top": "curlyHighTop",
    "very long": "extraLong",
    "fade": "fade",
    "long": "long",
    "mohawk": "mohawk",
    "pigtails": "pigtails",
    "short": "shortCombover",
    "sideburns": "shortComboverChops",
    "side swept": "sideShave",
    "bun": "straightBun",
}
HAIR_COLOURS = {
    "black": "#2c1b18",
    "white": "#e8e1e1",
    "blond": "#e0b84c",
    "pink": "#f27fa0",
    "brown": "#7a4a2a",
    "red": "#d23a05",
    "blue": "#3a5fcd",
    "green": "#2e8b57",
    "purple": "#8a4fbf",
}
SKINS = {
    "pale": "#ffdbb4",
    "tan": "#e5a873",
    "brown": "#b5713f",
    "dark": "#6b4a38",
    "yellow": "#f8d25c",
}
BEARDS = {
    "": None,
    "bearded": "beardMustache",
    "goatee": "goatee",
    "moustache": "walrus",
    "soul patch": "soulPatch",
}
COATS = {
    "red": (214, 58, 48),
    "orange": (247, 146, 46),
    "yellow": (247, 214, 72),
    "green": (98, 190, 80),
    "teal": (48, 178, 172),
    "blue": (76, 122, 226),
    "purple": (140, 84, 200),
    "pink": (244, 130, 184),
    "brown": (134, 86, 52),
    "grey": (138, 142, 150),
    "black": (62, 60, 70),
    "white": (240, 236, 226),
}
FURS = {
    "plain": 2,
    "striped": 0,
    "tiger": 1,
    "swirly": 3,
    "dark patched": 4,
    "star patched": 5,
    "white chested": 7,
    "blotchy": 8,
    "spotted": 9,
}
BODIES = tuple(range(15))

ATTRIBUTES: dict[str, dict[str, tuple]] = {
    "person": {
        "style": tuple(HAIR_STYLES),
        "hair": tuple(HAIR_COLOURS),
        "skin": tuple(SKINS),
        "beard": tuple(BEARDS),
    },
    "kitten": {"coat": tuple(COATS), "fur": tuple(FURS), "body": BODIES},
}
DOMAINS = tuple(ATTRIBUTES)


@dataclass(frozen=True)
class Identity:
    """One subject: its domain and the value index of each of the domain's attributes."""

    domain: str
    values: tuple[int, ...]

    def __getitem__(self, attribute: str):
        names = tuple(ATTRIBUTES[self.domain])
        return ATTRIBUTES[self.domain][attribute][self.values[names.index(attribute)]]

    @property
    def key(self) -> str:
        return f"{self.domain}:" + "-".join(map(str, self.values))

    @property
    def held_out(self) -> bool:
        """True for the tenth of all combinations that no training ever sees."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def identities(domain: str, held_out: bool) -> tuple[Identity, ...]:
    """All identities of a domain on one side of the split, in a fixed order shuffled by hash."""
    spans = [range(len(values)) for values in ATTRIBUTES[domain].values()]
    every = (Identity(domain, combination) for combination in itertools.product(*spans))
    chosen = [identity for identity in every if identity.held_out == held_out]
    return tuple(
        sorted(chosen, key=lambda identity: hashlib.sha256(identity.key[::-1].encode()).digest())
    )
