"""What a tensor's name says: keys or values, and of which cross-attention."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .structures import find_path, place_of_path

Role = Literal["k", "v", "kv"]
Place = int | tuple[str, int, int]

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("k", "key", "keys", "wk"), "k"),
    **dict.fromkeys(("v", "value", "values", "wv"), "v"),
    **dict.fromkeys(("kv", "wkv"), "kv"),
}
_WORD = re.compile(r"[^._-]+")
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class PairSet:
    """Tensors whose names differ only in the role and in the place.

    template  the name with [kv] for the role and * for the place
    members   names by place and role
    several_numbers  more than one number runs through the names, so that no place is known
    """

    template: str
    members: dict[Place, dict[Role, str]]
    several_numbers: bool = False

    def count(self, role: Role) -> int:
        return sum(role in roles for roles in self.members.values())

    def describe(self) -> str:
        """For messages: the template and how many tensors of each role it has."""
        counts = {"keys": self.count("k"), "values": self.count("v"), "fused": self.count("kv")}
        found = ", ".join(f"{count} {role}" for role, count in counts.items() if count)
        return f"{self.template} ({found})"


def pair_sets(names: Iterable[str]) -> list[PairSet]:
    """The names that tell a role, grouped by what they have in common."""
    by_path: dict[str, PairSet] = {}
    by_number: dict[str, list[tuple[tuple[int, ...], Role, str]]] = defaultdict(list)
    for name in names:
        found = _role(name)
        if found is None:
            continue
        role, template = found
        path = find_path(template)
        if path is not None:
            template = f"{template[: path.start()]}*{template[path.end() :]}"
            group = by_path.setdefault(template, PairSet(template, {}))
            group.members.setdefault(place_of_path(path), {})[role] = name
        else:
            numbers = tuple(int(number) for number in _NUMBER.findall(template))
            by_number[_NUMBER.sub("#", template)].append((numbers, role, name))
    numbered = [_numbered(template, found) for template, found in by_number.items()]
    return [*by_path.values(), *numbered]


def _role(name: str) -> tuple[Role, str] | None:
    """The role that the last telling word gives, and the name with [kv] in its place."""
    for word in reversed(list(_WORD.finditer(name))):
        role = _ROLES.get(word.group().lower())
        if role is not None:
            return role, f"{name[: word.start()]}[kv]{name[word.end() :]}"
    return None


def _numbered(template: str, found: list[tuple[tuple[int, ...], Role, str]]) -> PairSet:
    columns = list(zip(*(numbers for numbers, _, _ in found), strict=True))
    running = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    marks = ["*" if index in running else str(column[0]) for index, column in enumerate(columns)]
    remaining = iter(marks)
    members: dict[Place, dict[Role, str]] = {}
    for position, (numbers, role, name) in enumerate(found):
        place = numbers[running[0]] if len(running) == 1 else position
        members.setdefault(place, {})[role] = name
    return PairSet(
        re.sub("#", lambda _: next(remaining), template), members, several_numbers=len(running) > 1
    )
