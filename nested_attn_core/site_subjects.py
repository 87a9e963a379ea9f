"""The subjects of one site, and what the sites of a model call share about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from .separation import Claims
from .site_subject import SiteSubject
from .slots import Slots


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
