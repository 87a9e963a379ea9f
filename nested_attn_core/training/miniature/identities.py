"""Who exists in the miniature world: every identity is one combination of named attributes."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

HELD_OUT_SHARE = 0.1

# A value's number is part of every key that has it, so it must never change: the split into
# training and held-out identities stays where it is when values are added or left out.
HAIR_STYLES = {
    "balding": (0, "balding"),
    "bob": (2, "bobCut"),
    "curly": (4, "curly"),
    "high top": (6, "curlyHighTop"),
    "long": (9, "long"),
    "mohawk": (10, "mohawk"),
    "pigtails": (11, "pigtails"),
    "short": (12, "shortCombover"),
    "side swept": (14, "sideShave"),
    "bun": (15, "straightBun"),
}
HAIR_COLOURS = {
    "black": (0, "#2c1b18"),
    "white": (1, "#e8e1e1"),
    "blond": (2, "#e0b84c"),
    "pink": (3, "#f27fa0"),
    "brown": (4, "#7a4a2a"),
    "red": (5, "#d23a05"),
    "blue": (6, "#3a5fcd"),
    "green": (7, "#2e8b57"),
    "purple": (8, "#8a4fbf"),
}
SKINS = {
    "pale": (0, "#ffdbb4"),
    "tan": (1, "#e5a873"),
    "brown": (2, "#b5713f"),
    "dark": (3, "#6b4a38"),
    "yellow": (4, "#f8d25c"),
}
BEARDS = {"": (0, None), "bearded": (1, "beardMustache"), "moustache": (3, "walrus")}
COATS = {
    "red": (0, (214, 58, 48)),
    "orange": (1, (247, 146, 46)),
    "yellow": (2, (247, 214, 72)),
    "green": (3, (98, 190, 80)),
    "teal": (4, (48, 178, 172)),
    "blue": (5, (76, 122, 226)),
    "purple": (6, (140, 84, 200)),
    "pink": (7, (244, 130, 184)),
    "brown": (8, (134, 86, 52)),
    "grey": (9, (138, 142, 150)),
    "black": (10, (62, 60, 70)),
    "white": (11, (240, 236, 226)),
}
MARKINGS = {
    "striped": (0, 1),
    "spotted": (1, 9),
    "patched": (2, 4),
    "starred": (3, 5),
    "hooded": (4, "hood"),
    "bibbed": (5, "bib"),
}
MARKING_COLOURS = {
    name: (number, COATS[name][1])
    for number, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple", "pink"))
}
TAILS = {"": (0, None), "white": (1, (246, 244, 238)), "black": (2, (40, 38, 46))}
ROBOT_COLOURS = {
    name: (number, name)
    for number, name in enumerate(
        ("blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
    )
}
ROBOT_HEADS = {
    "shield": (0, 7),
    "capsule": (1, 3),
    "hooked": (2, 8),
    "cylinder": (3, 5),
    "block": (4, 10),
    "ball": (5, 2),
}
ROBOT_TOPS = {"": (0, None), "hat": (1, 7), "antenna": (2, 3), "dish": (3, 5), "feather": (4, 9)}

TABLES: dict[str, dict[str, dict[str, tuple]]] = {
    "person": {"style": HAIR_STYLES, "hair": HAIR_COLOURS, "skin": SKINS, "beard": BEARDS},
    "kitten": {"coat": COATS, "marking": MARKINGS, "colour": MARKING_COLOURS, "tail": TAILS},
    "robot": {
        "head": ROBOT_COLOURS,
        "body": ROBOT_COLOURS,
        "shape": ROBOT_HEADS,
        "top": ROBOT_TOPS,
    },
}
ATTRIBUTES = {
    domain: {name: tuple(table) for name, table in tables.items()}
    for domain, tables in TABLES.items()
}
DOMAINS = tuple(ATTRIBUTES)


@dataclass(frozen=True)
class Identity:
    """One subject: its domain and the value index of each of the domain's attributes."""

    domain: str
    values: tuple[int, ...]

    def __getitem__(self, attribute: str) -> str:
        names = tuple(ATTRIBUTES[self.domain])
        return ATTRIBUTES[self.domain][attribute][self.values[names.index(attribute)]]

    def part(self, attribute: str):
        """What the drawing takes for this identity's value: a part's name or number, a colour."""
        return TABLES[self.domain][attribute][self[attribute]][1]

    @property
    def key(self) -> str:
        tables = TABLES[self.domain]
        return f"{self.domain}:" + "-".join(str(tables[name][self[name]][0]) for name in tables)

    @property
    def held_out(self) -> bool:
        """True for the tenth of all combinations that no training ever sees."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32

    @property
    def visible(self) -> bool:
        """False where a marking has the colour of the coat, so that it does not show."""
        return self.domain != "kitten" or self["coat"] != self["colour"]


def identities(domain: str, held_out: bool) -> tuple[Identity, ...]:
    """All identities of a domain on one side of the split, in a fixed order shuffled by hash."""
    spans = [range(len(values)) for values in ATTRIBUTES[domain].values()]
    every = (Identity(domain, combination) for combination in itertools.product(*spans))
    chosen = [who for who in every if who.visible and who.held_out == held_out]
    return tuple(
        sorted(chosen, key=lambda identity: hashlib.sha256(identity.key[::-1].encode()).digest())
    )
