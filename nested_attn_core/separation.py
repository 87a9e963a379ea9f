"""Keeping several subjects apart: the settings, and what one model call learns of their places.

The paper names two failures with several subjects: outer attention maps that overlap, and leakage
through self-attention. assignment.py and bounded.py are a remedy for each; both go by the maps that
are gathered here.

A subject's map M_s(q) is the outer probability of its tokens, as mean over heads and as running
mean over the sites of a model call (running_map.py). The first sites of a call see little of where
a subject is and the last ones much, so that a step begins with what the step before it has found.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .assignment import assigned, relative
from .bounded import BACKGROUND, regions
from .errors import NestedAttentionError
from .running_map import RunningMap, Size, resized
from .site_subject import SiteSubject
from .slots import Slots, take

ASSIGNMENTS = ("off", "soft", "exclusive")


@dataclass(frozen=True)
class Separation:
    """How several subjects are kept apart. Raises NestedAttentionError for anything else.

    assignment   of queries to subjects, see assignment.py
    bounded      whether self-attention is bounded, see bounded.py
    start_percent, end_percent   part of the sampling in which both act, 0 to 1
    smoothing    see RunningMap: how much of a map comes from the sites before
    region       see bounded.regions: how much a place must be looked at to be in a region
    """

    assignment: Literal["off", "soft", "exclusive"] = "off"
    bounded: bool = False
    start_percent: float = 0.0
    end_percent: float = 1.0
    smoothing: float = 0.8
    region: float = 0.5

    def __post_init__(self) -> None:
        if self.assignment not in ASSIGNMENTS:
            raise NestedAttentionError(
                f'The assignment "{self.assignment}" is unknown; use "off", "soft" or "exclusive".'
            )
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise NestedAttentionError(
                f"Subjects are to be kept apart from {self.start_percent} to {self.end_percent}; "
                "give a start and an end between 0 and 1, the start first."
            )
        if not 0 <= self.smoothing < 1:
            raise NestedAttentionError(
                f"The smoothing is {self.smoothing}; give a number from 0 to below 1."
            )
        if not 0 < self.region <= 1:
            raise NestedAttentionError(
                f"The region is {self.region}; give a number above 0 and up to 1."
            )

    @property
    def off(self) -> bool:
        return self.assignment == "off" and not self.bounded


# (row, subject) -> the map that a model call ended with, and the row of it.
Memory = dict[tuple[Hashable, Hashable], tuple[RunningMap, int]]


class Claims:
    """Where the subjects of one model call are, by what cross-attention has shown so far.

    Every row of the batch has maps of its own. Subjects go by their number in the list of the
    sites, which must be the same at all of them.

    rows, subjects   names by which the rows and subjects of a call are known to the next one
    memory           of the run, read when the call begins and written to by its sites; a new one
                     where there is no step before
    """

    def __init__(
        self,
        settings: Separation,
        rows: Sequence[Hashable],
        subjects: Sequence[Hashable],
        memory: Memory,
    ) -> None:
        self.settings = settings
        self._rows = rows
        self._subjects = subjects
        self._memory = memory
        self._before = {
            number: found
            for number, subject in enumerate(subjects)
            if (found := _remembered(memory, rows, subject)) is not None
        }
        known = [sum((row, subject) in memory for subject in subjects) for row in rows]
        self._contested_before = torch.tensor(known) > 1
        self._maps: dict[int, RunningMap] = {}
        self._labels: dict[Size, Tensor] = {}

    def see(
        self,
        numbers: Sequence[int],
        live: Sequence[SiteSubject],
        slots: Slots,
        shares: Sequence[Tensor],
        size: Size | None,
    ) -> list[Tensor] | None:
        """The factors of the nested terms at one site, (R, N, 1, 1) each; None for no assignment.

        numbers, live   the subjects that act at the site, and their numbers in its list
        slots           theirs, with R rows
        shares          (R, N, heads, P) each: outer probabilities, token weights included
        size            (height, width) of the site; without it, the site speaks for itself only
        """
        present = torch.stack([(subject.positions >= 0).any(1) for subject in live]).cpu()
        contested = present.sum(0) > 1
        if not bool(contested.any()):
            return None
        own = [
            _masked(share.sum(-1).mean(-1), subject, slots)
            for share, subject in zip(shares, live, strict=True)
        ]
        if size is not None and size[0] * size[1] == own[0].shape[1]:
            for number, there, values in zip(numbers, present, own, strict=True):
                self._remember(number, values, slots, (there & contested).tolist(), size)
            own = [
                # Once more: smoothing takes a map beyond the border of its mask.
                _masked(take(self._maps[number].at(size).flatten(1), slots.rows), subject, slots)
                for number, subject in zip(numbers, live, strict=True)
            ]
        if self.settings.assignment == "off":
            return None
        exclusive = self.settings.assignment == "exclusive"
        factors = assigned(relative(torch.stack(own)), exclusive)
        alone = ~_of_rows(contested.to(factors.device), slots)
        return list(factors.masked_fill(alone[:, None], 1.0)[..., None, None])

    def labels(self, size: Size) -> Tensor | None:
        """The regions of bounded.regions on a feature map of `size`, (B, h * w) on the CPU, by the
        step before; None in the first one. Rows with fewer than two subjects are background."""
        if len(self._before) < 2:
            return None
        if size not in self._labels:
            maps = torch.stack([resized(found, size) for found in self._before.values()])
            found = regions(maps, self.settings.region).flatten(1).cpu()
            alone = ~self._contested_before
            self._labels[size] = found.masked_fill(alone[:, None], BACKGROUND)
        return self._labels[size]

    def _remember(
        self, number: int, values: Tensor, slots: Slots, contested: list[bool], size: Size
    ) -> None:
        whole = values
        if slots.rows is not None:
            whole = values.new_zeros(len(contested), values.shape[1])
            whole[slots.rows] = values
        if number not in self._maps:
            made = RunningMap(self.settings.smoothing, self._before.get(number))
            self._maps[number] = made
            for row, there in enumerate(contested):
                if there:
                    self._memory[self._rows[row], self._subjects[number]] = made, row
        self._maps[number].add(whole.unflatten(1, size))


def _remembered(memory: Memory, rows: Sequence[Hashable], subject: Hashable) -> Tensor | None:
    """A subject's maps at the end of the call before, (B, h, w); 0 in rows that are new."""
    found = [memory.get((row, subject)) for row in rows]
    known = [entry for entry in found if entry is not None]
    if not known:
        return None
    size = known[0][0].finest
    maps = [
        None if entry is None else entry[0].at(size, slice(entry[1], entry[1] + 1))
        for entry in found
    ]
    empty = torch.zeros_like(next(each for each in maps if each is not None))
    return torch.cat([empty if each is None else each for each in maps])


def _masked(values: Tensor, subject: SiteSubject, slots: Slots) -> Tensor:
    """A map (R, N) where the subject's mask lets it act."""
    if subject.mask is None:
        return values
    return values * take(subject.mask, slots.rows).to(values)


def _of_rows(values: Tensor, slots: Slots) -> Tensor:
    return values if slots.rows is None else values[slots.rows]
