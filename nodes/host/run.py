"""What belongs to one sampling run: nested keys and values, and the plans made of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...nested_attn_core.attention import SiteSubject
from ...nested_attn_core.masks import on_latent, on_site
from ...nested_attn_core.placeholders import missing_names_message
from ...nested_attn_core.separation import Claims, Memory, Separation
from ...nested_attn_core.site_subjects import SiteSubjects
from ...nested_attn_core.slots import Slots
from ...nested_attn_core.subject import Subject
from .carrier import NOT_GIVEN
from .memory import KeysValues
from .patch import NestedPlan

RUN = "nested_attention_run"

log = logging.getLogger("nested_attention")


@dataclass(frozen=True)
class Window:
    """What one row of a model call shows: rows ``ys`` and columns ``xs`` of image ``image``."""

    ys: tuple[int, ...]
    xs: tuple[int, ...]
    image: int = 0


@dataclass(frozen=True)
class Place:
    """Where the rows of a model call lie in a latent of (height, width); all of one size."""

    latent: tuple[int, int]
    windows: tuple[Window, ...]

    @classmethod
    def whole(cls, latent: tuple[int, int], rows: int, images: int) -> Place:
        """Rows that each show a whole image of ``images``, over and over."""
        ys, xs = (tuple(range(side)) for side in latent)
        return cls(latent, tuple(Window(ys, xs, row % images) for row in range(rows)))

    @property
    def size(self) -> tuple[int, int]:
        return len(self.windows[0].ys), len(self.windows[0].xs)


@dataclass(frozen=True)
class Presence:
    """A subject in one model call, whose context has ``length`` rows.

    ``slots`` are, for each row of the batch, (row of the context, length that it counts in).
    """

    subject: Subject
    identity: int
    slots: tuple[tuple[tuple[int, int], ...], ...]
    length: int
    _made: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def positions(self, tokens: int | None = None) -> Tensor:
        """(rows of the batch, P) int64 among the ``tokens`` keys of a site, -1 for an empty slot.

        The host repeats a shorter context up to the length of a longer one; the subject's token
        is then in every copy. Packs in the manner of NegPiP make a context with several rows for
        each token, and take them apart again before the site.
        """
        tokens = self.length if tokens is None else tokens
        if tokens not in self._made:
            several = self.length // tokens if self.length % tokens == 0 else 1
            several = max(several, 1)
            self._made[tokens] = _padded(
                [
                    [
                        place
                        for row, basis in slots
                        for place in range(row, self.length // several, basis // several)
                    ]
                    for slots in self.slots
                ]
            )
        return self._made[tokens]


class Run:
    """Nested keys and values by subject, made once and dropped when sampling ends.

    ``groups``: the group of layers of each site, by site name.
    """

    def __init__(
        self,
        subjects: Mapping[int, Subject],
        device: torch.device,
        dtype: torch.dtype,
        groups: Mapping[str, str] | None = None,
    ):
        self.subjects = subjects
        self.groups = groups or {}
        self.visited: set[str] = set()
        self.acted = False
        self.told_of_rows = False
        self.told: set[str] = set()
        self._places: Memory = {}
        self._device = device
        self._dtype = dtype
        self._made: dict[int, KeysValues] = {}
        self._masks: dict[tuple[Any, ...], tuple[Tensor, Tensor] | tuple[None, None]] = {}

    def prepare(self, named: Collection[int]) -> None:
        """Projects the subjects that are named, once the host has loaded their encoders."""
        wanted = [key for key, subject in self.subjects.items() if key in named and acts(subject)]
        encoders = {id(e): e for e in (self.subjects[key].encoder for key in wanted)}
        for encoder in encoders.values():
            encoder.load()
            for key in wanted:
                if self.subjects[key].encoder is encoder:
                    self.keys_values(key)

    def keys_values(self, key: int) -> KeysValues:
        """{site: (keys, values)} of one subject, each (1, n, width), in the model's dtype."""
        if key not in self._made:
            subject = self.subjects[key]
            self._made[key] = subject.encoder.keys_values(subject.tokens, self._device, self._dtype)
        return self._made[key]

    def mask(self, key: int, place: Place, size: tuple[int, int]) -> Tensor | None:
        """The subject's mask on a feature map of ``size``: (1 or rows, N); None if it is 1 there
        throughout."""
        return self._mask(key, place, size)[0]

    def queries(self, key: int, place: Place, size: tuple[int, int]) -> Tensor | None:
        """The queries that the subject's mask lets through in some row: (M,) int64."""
        return self._mask(key, place, size)[1]

    def _mask(
        self, key: int, place: Place, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        mask = self.subjects[key].mask
        if mask is None:
            return None, None
        name = (key, place, size)
        if name not in self._masks:
            found = mask_at(mask, place, size)
            if bool((found == 1).all()):
                self._masks[name] = None, None
            else:
                queries = (found != 0).any(0).nonzero().flatten()
                self._masks[name] = found.to(self._device), queries.to(self._device)
        return self._masks[name]

    def claims(
        self, separation: Separation, found: Sequence[Presence], place: Place
    ) -> Claims | None:
        """What keeps the subjects of a model call apart; None where no row has several.

        A row is known to the next step by who is in it and by its window in the image.
        """
        rows = list(zip(*(presence.slots for presence in found), strict=True))
        if not any(sum(map(bool, row)) > 1 for row in rows):
            return None
        names = [presence.identity for presence in found]
        keys = [
            (tuple(sorted(n for n, slots in zip(names, row, strict=True) if slots)), window)
            for row, window in zip(rows, place.windows, strict=True)
        ]
        return Claims(separation, keys, names, self._places)

    def warn_of_missing_sites(self, sites: Collection[str]) -> None:
        """Says which sites no model call reached, for example because a patch was overwritten."""
        missing = [site for site in sites if site not in self.visited]
        if self.acted and missing:
            log.warning(
                "Nested attention reached %d of %d cross-attention sites; another extension holds "
                "%s, so apply the subjects after it.",
                len(sites) - len(missing),
                len(sites),
                ", ".join(missing),
            )

    def close(self) -> None:
        """Frees what the run made."""
        self._made.clear()
        self._masks.clear()
        self._places.clear()


class RunPlan(NestedPlan):
    """The plan of one model call, from what the run made."""

    def __init__(
        self,
        run: Run,
        presences: Sequence[Presence],
        place: Place,
        claims: Claims | None = None,
    ):
        super().__init__(len(place.windows), {}, claims)
        self.told = run.told
        self._run = run
        self._presences = presences
        self.place = place
        self._slots: dict[tuple[object, ...], Slots] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the subjects, in the order of `at`."""
        return tuple(presence.subject.name for presence in self._presences)

    def group(self, site_name: str) -> str:
        """The group of layers of a site."""
        return self._run.groups.get(site_name, "middle")

    def at(
        self, site_name: str, size: tuple[int, int] | None = None, tokens: int | None = None
    ) -> Sequence[SiteSubject]:
        self._run.visited.add(site_name)
        found = (self._subject(p, site_name, size, tokens) for p in self._presences)
        return SiteSubjects.sharing(self._slots, found)

    def left_out(self, site_name: str, rows: int) -> None:
        self._run.visited.add(site_name)
        self.told_of_rows = self._run.told_of_rows
        super().left_out(site_name, rows)
        self._run.told_of_rows = True

    def _subject(
        self,
        presence: Presence,
        site_name: str,
        size: tuple[int, int] | None,
        tokens: int | None,
    ) -> SiteSubject:
        subject = presence.subject
        key, value = self._run.keys_values(presence.identity)[site_name]
        where = presence.identity, self.place, size or self.place.size
        return SiteSubject(
            key=key,
            value=value,
            positions=presence.positions(tokens),
            strength=subject.strength * subject.layers.of(self.group(site_name)),
            norm=subject.norm,
            token_weight=subject.token_weight,
            mask=self._run.mask(*where),
            queries=self._run.queries(*where),
        )


def acts(subject: Subject) -> bool:
    """Whether a subject can change an image at all."""
    on = subject.strength != 0 and not subject.layers.all_off
    return on and (subject.mask is None or bool(subject.mask.any()))


def warn_of_unnamed(subjects: Mapping[int, Subject], named: Collection[int]) -> None:
    """Says which subjects no conditioning of the run names, and which names are strange to it."""
    missing = [s.name for key, s in subjects.items() if key not in named and acts(s)]
    if missing:
        log.warning(missing_names_message(missing))
    if any(key not in subjects for key in named):
        log.warning(NOT_GIVEN)


def presences(subjects: Mapping[int, Subject], slots: Tensor, length: int) -> list[Presence]:
    """The subjects of a model call, from payloads (rows, slots, 3) and a context of ``length``."""
    found: dict[int, list[list[tuple[int, int]]]] = {}
    for number, filled in enumerate(slots.tolist()):
        for identity, row, basis in filled:
            if identity in subjects and 0 <= row < basis:
                rows = found.setdefault(identity, [[] for _ in range(len(slots))])
                rows[number].append((row, basis))
    return [
        Presence(subjects[identity], identity, tuple(map(tuple, rows)), length)
        for identity, rows in found.items()
    ]


class Ranged(Protocol):
    """What acts in a part of the sampling: a subject, or what keeps subjects apart."""

    @property
    def start_percent(self) -> float: ...
    @property
    def end_percent(self) -> float: ...


def always(one: Ranged) -> bool:
    """Whether it acts in every step."""
    return one.start_percent <= 0 and one.end_percent >= 1


def in_range(one: Ranged, sigma: float, sampling: Any) -> bool:
    """Whether it acts at ``sigma``, by the sampling model's own schedule.

    A range without length holds no step.
    """
    start, end = one.start_percent, one.end_percent
    if start >= end:
        return False
    first = math.inf if start <= 0 else sampling.percent_to_sigma(start)
    last = -math.inf if end >= 1 else sampling.percent_to_sigma(end)
    return last <= sigma <= first


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.long)


def mask_at(mask: Tensor, place: Place, size: tuple[int, int]) -> Tensor:
    """A mask (H, W) or (frames, H, W) on the feature map of a model call: (1 or rows, N), CPU.

    Frames go by the images of the batch; with fewer frames than images they are used in turn.
    """
    frames = mask.cpu().reshape(-1, *mask.shape[-2:])
    # One by one, for memory: a film's masks at full size may be large.
    whole = torch.stack([on_latent(frame, place.latent) for frame in frames])
    seen = [(w.image % len(whole), w.ys, w.xs) for w in place.windows]
    made = {
        key: on_site(whole[key[0]][list(key[1])][:, list(key[2])], size).flatten().float()
        for key in dict.fromkeys(seen)
    }
    return torch.stack(list(made.values()) if len(made) == 1 else [made[key] for key in seen])
