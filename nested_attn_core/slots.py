"""Which rows of a batch and which tokens of the context belong to subjects, in one model call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import NestedAttentionError
from .site_subject import SiteSubject

if TYPE_CHECKING:
    from .separation import Claims


@dataclass(frozen=True, eq=False)
class Slots:
    """Positions of some subjects, checked, and on the device where they are used.

    rows    the rows of the batch that have a subject: None for all, a slice where they adjoin, else
            their numbers (R,) int64
    own     for each subject, those of these R rows where it is, in the same form
    index   (R, S) int64, the tokens of all subjects' slots, 0 for an empty one
    filled  (R, S) bool
    widths  how many of the S slots each subject has
    """

    rows: slice | Tensor | None
    own: tuple[slice | Tensor | None, ...]
    index: Tensor
    filled: Tensor | None
    widths: tuple[int, ...]

    @classmethod
    def of(cls, positions: Sequence[Tensor], tokens: int, device: torch.device) -> Slots:
        """From each subject's (B, P) positions in a context of that many tokens.

        Raises NestedAttentionError for positions outside the context and a token claimed twice.
        """
        every = torch.cat([own.cpu() for own in positions], dim=1)
        _check_positions(every, tokens)
        rows = (every >= 0).any(1)
        widths = tuple(own.shape[1] for own in positions)
        kept = every[rows]
        filled = kept >= 0
        return cls(
            rows=_numbers(rows, device),
            own=tuple(_numbers(part.any(1), device) for part in filled.split(widths, 1)),
            index=kept.clamp_min(0).to(device, non_blocking=True),
            filled=None if bool(filled.all()) else filled.to(device, non_blocking=True),
            widths=widths,
        )


class SiteSubjects(tuple[SiteSubject, ...]):
    """The subjects of one site in a model call whose sites all have the same positions.

    ``known`` is shared by these sites: positions are checked and moved once, not at each of them.
    So are ``claims``, where several subjects are kept apart; ``size`` is (height, width) here.
    """

    known: dict[tuple[object, ...], Slots]
    claims: Claims | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def sharing(
        cls, known: dict[tuple[object, ...], Slots], subjects: Iterable[SiteSubject]
    ) -> SiteSubjects:
        made = cls(subjects)
        made.known = known
        return made

    @classmethod
    def apart(
        cls, subjects: Sequence[SiteSubject], claims: Claims, size: tuple[int, int] | None
    ) -> SiteSubjects:
        """The same subjects at a site of that size, kept apart."""
        known = subjects.known if isinstance(subjects, SiteSubjects) else {}
        made = cls.sharing(known, subjects)
        made.claims, made.size = claims, size
        return made


def slots_of(
    subjects: Sequence[SiteSubject],
    live: Sequence[SiteSubject],
    tokens: int,
    device: torch.device,
) -> Slots:
    """Slots of those subjects that are live, from what earlier sites of the call have found."""
    known = subjects.known if isinstance(subjects, SiteSubjects) else {}
    name = tokens, device, *(id(subject.positions) for subject in live)
    if name not in known:
        known[name] = Slots.of([subject.positions for subject in live], tokens, device)
    return known[name]


def take(tensor: Tensor, rows: slice | Tensor | None) -> Tensor:
    """Those rows of a tensor whose rows they are, or all of one that has a row for all."""
    return tensor if rows is None or len(tensor) == 1 else tensor[rows]


def _numbers(chosen: Tensor, device: torch.device) -> slice | Tensor | None:
    if bool(chosen.all()):
        return None
    numbers = chosen.nonzero().flatten()
    if len(numbers) and int(numbers[-1] - numbers[0]) == len(numbers) - 1:
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers.to(device, non_blocking=True)


def _check_positions(positions: Tensor, tokens: int) -> None:
    if int(positions.max()) >= tokens:
        raise NestedAttentionError(
            f"A subject is bound to token {int(positions.max())} of a context of {tokens} tokens; "
            "encode the prompt again with the patched CLIP."
        )
    ordered = positions.sort(dim=1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise NestedAttentionError(
            "One token of the context is bound twice; bind each token to one subject, once."
        )
