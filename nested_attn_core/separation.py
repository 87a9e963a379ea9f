"""Keeping several subjects apart: the settings, and what one model call learns of their places.

The paper names two failures with several subjects: outer attention maps that overlap, and leakage
through self-attention. assignment.py and bounded.py are a remedy for each; both read the claims
that are gathered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .assignment import assigned
from .bounded import BACKGROUND, regions
from .errors import NestedAttentionError
from .running_map import RunningMap, Size
from .site_subject import SiteSubject
from .slots import Slots, take

ASSIGNMENTS = ("off", "soft", "exclusive")


@dataclass(frozen=True)
class Separation:
    """How several subjects are kept apart. Raises NestedAttentionError for anything else.

    assignment   of queries to subjects, see assignment.py
    bounded      whether self-attention is bounded, see bounded.py
    start_percent, end_percent   part of the sampling in which both act, 0 to 1
    smoothing    see RunningMap: how much of a claim comes from the sites before
    region       see bounded.regions: how much of its largest claim a subject's region needs
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


class Claims:
    """Where the subjects of one model call are, by what its cross-attention has shown so far.

    It lives for one call, so that no step, tile or other batch reads what another one saw, and
    every row of the batch has claims of its own. Subjects go by their place in the list of the
    sites, which must be the same at all of them.
    """

    def __init__(self, settings: Separation) -> None:
        self.settings = settings
        self._maps: dict[int, RunningMap] = {}
        self._contested: Tensor | None = None

    def see(
        self,
        numbers: Sequence[int],
        live: Sequence[SiteSubject],
        slots: Slots,
        shares: Sequence[Tensor],
        size: Size | None,
    ) -> list[Tensor] | None:
        """The factors of the nested terms at one site, (R, N, 1, 1) each; None for no assignment.

        numbers, live   the subjects that act at the site, and their places in its list
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
            self._remember(numbers, own, slots, contested, size)
            own = [
                # Once more: smoothing takes a claim beyond the border of its mask.
                _masked(take(self._maps[number].at(size).flatten(1), slots.rows), subject, slots)
                for number, subject in zip(numbers, live, strict=True)
            ]
        if self.settings.assignment == "off":
            return None
        factors = assigned(torch.stack(own), self.settings.assignment == "exclusive")
        alone = ~_of_rows(contested.to(factors.device), slots)
        return list(factors.masked_fill(alone[:, None], 1.0)[..., None, None])

    def labels(self, size: Size) -> Tensor | None:
        """The regions of bounded.regions on a feature map of `size`, (B, h * w), by what was seen
        so far; None where nothing has been. Rows with fewer than two subjects are background."""
        if not self._maps or self._contested is None:
            return None
        claims = torch.stack([running.at(size) for running in self._maps.values()])
        found = regions(claims, self.settings.region)
        alone = ~self._contested.to(found.device)
        return found.masked_fill(alone[:, None, None], BACKGROUND).flatten(1)

    def _remember(
        self,
        numbers: Sequence[int],
        own: Sequence[Tensor],
        slots: Slots,
        contested: Tensor,
        size: Size,
    ) -> None:
        for number, claim in zip(numbers, own, strict=True):
            whole = claim
            if slots.rows is not None:
                whole = claim.new_zeros(len(contested), claim.shape[1])
                whole[slots.rows] = claim
            running = self._maps.setdefault(number, RunningMap(self.settings.smoothing))
            running.add(whole.unflatten(1, size))
        before = self._contested
        self._contested = contested if before is None else before | contested


def _masked(claim: Tensor, subject: SiteSubject, slots: Slots) -> Tensor:
    """A claim (R, N) where the subject's mask lets it act."""
    if subject.mask is None:
        return claim
    return claim * take(subject.mask, slots.rows).to(claim)


def _of_rows(values: Tensor, slots: Slots) -> Tensor:
    return values if slots.rows is None else values[slots.rows]
