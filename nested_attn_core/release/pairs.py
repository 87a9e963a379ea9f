"""Nested keys and values in a file: which tensors they are, and which cross-attention has which."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import NestedAttentionError
from ..projections import Site
from .names import PairSet, Place, Role, pair_sets
from .structures import (
    STRUCTURES,
    Structure,
    find_path,
    in_host_order,
    known_counts,
    place_of_path,
)

Shape = tuple[int, ...]
# What the encoder reads of a pair: our leaf name, and the role that fills it.
_LEAVES: dict[Role, str] = {"k": "to_k", "v": "to_v", "kv": "to_kv"}


@dataclass(frozen=True)
class Pairs:
    """The nested keys and values of a file.

    template  as PairSet's
    sites     in the host's order
    names     our tensor names to the file's; "….to_kv.weight" holds keys above values
    """

    family: str
    template: str
    sites: tuple[Site, ...]
    names: dict[str, str]


def find_pairs(shapes: Mapping[str, Shape], token_dim: int) -> Pairs:
    """The one set of pairs among 2-D tensors of names and shapes.

    Raises NestedAttentionError (a clause, without the file) where there is none or more than one.
    """
    fitting = (name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == token_dim)
    sets = [found for found in pair_sets(fitting) if len(found.members) > 1]
    if not sets:
        raise NestedAttentionError(
            f"it has a resampler with tokens of width {token_dim}, but no nested keys and values "
            "of this width"
        )
    found, problems = _readings(sets, shapes)
    if len(found) == 1:
        return found[0]
    if found:
        seen = "; ".join(f"{pairs.template} ({len(pairs.sites)} pairs)" for pairs in found)
        raise NestedAttentionError(f"more than one set of nested keys and values fits: {seen}")
    raise NestedAttentionError("; ".join(problems))


def named_pairs(shapes: Mapping[str, Shape], keys: str, values: str) -> Pairs:
    """The pairs that a mapping file names by two templates with a * for the place.

    Raises NestedAttentionError (a clause, without the file).
    """
    members: dict[Place, dict[Role, str]] = {}
    for role, template in (("k", keys), ("v", values)):
        pattern = re.compile(re.escape(template).replace(r"\*", "(.+)"))
        for name in shapes:
            match = pattern.fullmatch(name)
            place = match and _place(match[1])
            if place is not None:
                members.setdefault(place, {})[role] = name  # type: ignore[index]
    if not members:
        raise NestedAttentionError(f"no tensor is called {keys} or {values}")
    return _read(PairSet(keys if keys == values else f"{keys}, {values}", members), shapes)


def _readings(
    sets: Iterable[PairSet], shapes: Mapping[str, Shape]
) -> tuple[list[Pairs], list[str]]:
    found, problems = [], []
    for candidate in sets:
        try:
            found.append(_read(candidate, shapes))
        except NestedAttentionError as error:
            problems.append(str(error))
    return found, problems


def _place(text: str) -> Place | None:
    path = find_path(text)
    if path is not None:
        return place_of_path(path)
    return int(text) if text.isdecimal() else None


def _read(found: PairSet, shapes: Mapping[str, Shape]) -> Pairs:
    """Raises NestedAttentionError (a clause) for what is no complete set of pairs."""
    if found.several_numbers:
        raise _refusal(found, "has more than one running number")
    for roles in found.members.values():
        _check_pair(found, roles, shapes)
    numbers = [place for place in found.members if isinstance(place, int)]
    if numbers:
        structure, sites = _by_number(found, numbers, _widths(found, sorted(numbers), shapes))
        by_place = dict(zip(sorted(numbers), sites, strict=True))
    else:
        structure, sites = _by_path(found, lambda place: _widths(found, [place], shapes)[0])
        by_place = {site.key: site for site in sites}
    names = {
        f"projections.{by_place[place].name}.{_LEAVES[role]}.weight": name  # type: ignore[index]
        for place, roles in found.members.items()
        for role, name in roles.items()
    }
    return Pairs(structure.family, found.template, in_host_order(sites), names)


def _check_pair(found: PairSet, roles: Mapping[Role, str], shapes: Mapping[str, Shape]) -> None:
    if set(roles) not in ({"k", "v"}, {"kv"}):
        raise _refusal(found, f"has not one key and one value at each place: {_listed(roles)}")
    if len({shapes[name] for name in roles.values()}) > 1:
        raise _refusal(found, f"has keys and values of different shapes: {_listed(roles)}")


def _listed(roles: Mapping[Role, str]) -> str:
    return ", ".join(sorted(roles.values()))


def _widths(found: PairSet, places: Sequence[Place], shapes: Mapping[str, Shape]) -> list[int]:
    widths = []
    for place in places:
        role, name = next(iter(found.members[place].items()))
        widths.append(shapes[name][0] // (2 if role == "kv" else 1))
    return widths


def _by_number(
    found: PairSet, numbers: Sequence[int], widths: Sequence[int]
) -> tuple[Structure, tuple[Site, ...]]:
    """Sites of running numbers, which count cross-attentions in diffusers' order: all from 0 or
    1, or the odd ones among all attentions, as self-attention comes first in every block."""
    first, last = min(numbers), max(numbers)
    step = 2 if len(numbers) * 2 - 1 == last and first == 1 and last > 1 else 1
    expected = set(range(1, last + 1, 2)) if step == 2 else set(range(first, last + 1))
    missing = sorted(expected - set(numbers))
    if missing or first > 1 or len(expected) != len(numbers):
        raise _refusal(found, _gap(numbers))
    for structure in STRUCTURES:
        sites = structure.sites(widths)
        if sites is not None:
            return structure, sites
    if len(widths) not in {len(structure) for structure in STRUCTURES}:
        raise _refusal(found, f"has {len(widths)} pairs, where {known_counts()} are known")
    raise _refusal(found, f"has the widths {_runs(widths)} in this order, which fit no model known")


def _gap(numbers: Sequence[int]) -> str:
    """Which number breaks the row, 0, 1, 2, ... or 1, 3, 5, ...; odd where most are odd."""
    odd = sum(number % 2 for number in numbers) > len(numbers) * 3 // 4
    step, first = (2, 1) if odd else (1, min(min(numbers), 1))
    whole = set(range(first, max(numbers) + 1, step))
    missing, strange = sorted(whole - set(numbers)), sorted(set(numbers) - whole)
    what = f"{missing[0]} is missing" if missing else f"{strange[0]} does not belong there"
    return f"has {len(numbers)} pairs, numbered {min(numbers)} to {max(numbers)}, where {what}"


def _by_path(found: PairSet, width: Callable[[Place], int]) -> tuple[Structure, tuple[Site, ...]]:
    for structure in STRUCTURES:
        places = [place[:3] for place in structure.places()]
        if set(places) != set(found.members):
            continue
        widths = [width(place) for place in places]
        sites = structure.sites(widths)
        if sites is None:
            raise _refusal(found, f"has the widths {_runs(widths)}, which fit no model known")
        return structure, sites
    raise _refusal(
        found,
        f"names {len(found.members)} cross-attentions, which are not those of a model known: "
        f"{known_counts()}",
    )


def _runs(widths: Sequence[int]) -> str:
    """ "640 x 4, 1280 x 20"."""
    runs: list[list[int]] = []
    for width in widths:
        if runs and runs[-1][0] == width:
            runs[-1][1] += 1
        else:
            runs.append([width, 1])
    return ", ".join(f"{width} x {count}" for width, count in runs)


def _refusal(found: PairSet, problem: str) -> NestedAttentionError:
    return NestedAttentionError(f"{found.describe()} {problem}")
