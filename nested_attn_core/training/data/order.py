"""Which pictures a training shows when: a function of the seed and the example's number alone."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from ..objective import sample_generator
from .example import DataError


@dataclass(frozen=True)
class Choice:
    """One example: rows of target and reference, and which augmented variant of the reference
    (None: the picture as it is)."""

    target: int
    reference: int
    variant: int | None


@dataclass(frozen=True)
class Pairs:
    """Who can be learnt from what.

    identities  one a row; references says whether a row may be a reference
    augment     "single", "always" or "never", as in the settings
    """

    identities: Sequence[str]
    references: Sequence[bool]
    augment: str = "single"
    variants: int = 4

    @functools.cached_property
    def by_identity(self) -> dict[str, list[int]]:
        """Rows that may be a reference."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, (identity, may) in enumerate(zip(self.identities, self.references, strict=True)):
            if may:
                found[identity].append(row)
        return found

    def partners(self, row: int) -> list[int]:
        """Other pictures of the row's subject; the picture itself where there is no other."""
        rows = self.by_identity.get(self.identities[row], [])
        others = [other for other in rows if other != row]
        if others or self.augment == "never":
            return others
        return rows

    def choose(self, row: int, generator: torch.Generator) -> Choice:
        """A reference for a target."""
        partners = self.partners(row)
        pick = int(torch.randint(0, len(partners), (), generator=generator))
        variant = int(torch.randint(0, self.variants, (), generator=generator))
        reference = partners[pick]
        augmented = reference == row or self.augment == "always"
        return Choice(row, reference, variant if augmented else None)


class Order:
    """Every target once an epoch, in batches of one bucket; the last of a bucket is filled up.

    rows     targets; buckets gives each one's bucket
    batch    examples in a step, over all processes
    """

    def __init__(
        self, pairs: Pairs, rows: Sequence[int], buckets: Sequence[Hashable], batch: int, seed: int
    ):
        if not rows:
            raise DataError(
                "No subject has a picture that may be the reference for another one; add pictures "
                'of each subject, or set data.augment to "single".'
            )
        self.pairs = pairs
        self.batch = batch
        self.seed = seed
        self._buckets: dict[Hashable, list[int]] = defaultdict(list)
        for row, bucket in zip(rows, buckets, strict=True):
            self._buckets[bucket].append(row)
        self.steps = sum(-(-len(found) // batch) for found in self._buckets.values())
        self._plan: tuple[int, list[list[int]]] = (-1, [])

    def choice(self, number: int) -> Choice:
        """The example of a number; number // batch is the step."""
        step, place = divmod(number, self.batch)
        epoch, turn = divmod(step, self.steps)
        row = self._epoch(epoch)[turn][place]
        return self.pairs.choose(row, sample_generator(self.seed, number, "reference"))

    def _epoch(self, epoch: int) -> list[list[int]]:
        known, plan = self._plan
        if known != epoch:
            plan = self._shuffled(epoch)
            self._plan = (epoch, plan)
        return plan

    def _shuffled(self, epoch: int) -> list[list[int]]:
        generator = sample_generator(self.seed, epoch, "order")
        plan = []
        for rows in self._buckets.values():
            count = -(-len(rows) // self.batch) * self.batch
            order: list[int] = []
            while len(order) < count:
                order += torch.randperm(len(rows), generator=generator).tolist()
            picked = [rows[place] for place in order[:count]]
            plan += [picked[i : i + self.batch] for i in range(0, count, self.batch)]
        return [plan[i] for i in torch.randperm(len(plan), generator=generator).tolist()]
