"""`dev.py eval --multi`: several held-out subjects in one picture, each read in its own part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.sampling import Cast
from stages.common import core, log

from . import artists
from .plots import TITLES
from .reading import Reader, stack
from .sheets import Row, save, sheet
from .studios import Painter, in_batches

NAMES = ("anna", "rex", "bolt")
# crowds -> pictures (n, H, W, 3)
Draw = Callable[[Sequence[Any]], Tensor]


@dataclass(frozen=True)
class Plan:
    """How many pairs and triples are drawn, of how many held-out subjects a domain."""

    pairs: int = 180
    triples: int = 60
    gallery: int = 32
    seed: int = 0


QUICK = Plan(pairs=36, triples=12)


@dataclass(frozen=True)
class Gallery:
    """Held-out subjects by domain, with embeddings of two plain pictures and features of one."""

    pools: Mapping[str, Sequence[Any]]
    pictures: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    features: Mapping[str, Tensor]

    def row(self, who: Any) -> int:
        return list(self.pools[who.domain]).index(who)

    def features_of(self, people: Sequence[Any]) -> Tensor:
        return torch.stack([self.features[who.domain][self.row(who)] for who in people])


def gallery_of(count: int, reader: Reader, vision: Any) -> Gallery:
    cases = core("evaluation.cases")
    domains = core("training.miniature.identities").DOMAINS
    first = {d: stack(cases.references(d, count, "reference")) for d in domains}
    second = {d: stack(cases.references(d, count, "second")) for d in domains}
    with torch.no_grad():
        features = {d: vision.encode_image(p)["last_hidden_state"].cpu() for d, p in first.items()}
    return Gallery(
        {d: cases.subjects(d, count) for d in domains},
        first,
        {d: reader.embed(p, d) for d, p in first.items()},
        {d: reader.embed(p, d) for d, p in second.items()},
        features,
    )


def drawer(
    painter: Painter,
    gallery: Gallery,
    method: Any,
    strength: float,
    seed: int,
    separation: Any = None,
) -> Draw:
    """Draws crowds of one size; method(domain, number, of) is what puts subject `number` in, or
    None for the base with the class words. A separation keeps the subjects apart."""
    studio = painter.studio

    def some(crowds: Sequence[Any], seeds: Sequence[int]) -> Tensor:
        count = len(crowds[0].who)
        if method is None:
            return painter.plain([crowd.prompt() for crowd in crowds], seeds)
        prompts = [crowd.prompt([f"<{name}>" for name in NAMES[:count]]) for crowd in crowds]
        texts = studio.read(prompts, _class_words(crowds[0]))
        casts = [
            Cast(
                method(crowds[0].who[number].domain, number, count),
                gallery.features_of([crowd.who[number] for crowd in crowds]),
                texts.positions[NAMES[number]],
                strength,
            )
            for number in range(count)
        ]
        return studio.draw(texts, seeds, casts, painter.how, separation=separation)

    def draw(crowds: Sequence[Any]) -> Tensor:
        """By kind, since one batch has one encoder a place; every row keeps its own seed."""
        drawn: dict[int, Tensor] = {}
        by_kind: dict[tuple[str, ...], list[int]] = {}
        for row, crowd in enumerate(crowds):
            by_kind.setdefault(tuple(who.domain for who in crowd.who), []).append(row)
        for rows in by_kind.values():
            made = in_batches(
                len(rows),
                lambda part, rows=rows: some(
                    [crowds[row] for row in rows[part]],
                    [seed * 1_000_000 + 700_000 + row for row in rows[part]],
                ),
            )
            drawn.update(zip(rows, made, strict=True))
        return torch.stack([drawn[row] for row in range(len(crowds))])

    return draw


def _class_words(crowd: Any) -> dict[str, str]:
    return {NAMES[number]: who.domain for number, who in enumerate(crowd.who)}


@dataclass(frozen=True)
class Scores:
    """One number a subject (identity, hit, leaked) or a picture (counted, right, of)."""

    identity: Tensor
    hit: Tensor
    leaked: Tensor
    counted: Tensor
    right: Tensor
    of: Tensor


def read(crowds: Sequence[Any], pictures: Tensor, gallery: Gallery, reader: Reader) -> Scores:
    """Every subject in its own part of the picture, the rest of which is put back to the scene."""
    regions, measures = core("evaluation.regions"), core("evaluation.measures")
    attributes, answers = core("training.miniature.attributes"), core("evaluation.answers")
    parts, records, places = [], [], []
    for row, (crowd, picture) in enumerate(zip(crowds, pictures, strict=True)):
        scene = regions.clean_scene(crowd.scene, crowd.style, picture.shape[1])
        for number in range(len(crowd.who)):
            parts.append(regions.alone(picture, scene, number, len(crowd.who)))
            records.append(crowd.record(number))
            places.append((row, number))
    images = torch.stack(parts)
    guesses = reader.answers(images)
    labels = attributes.labels(records)
    asked = answers.named(labels)
    asked.pop("place")
    right, of = answers.right(guesses, labels, asked)
    identity, hit, leaked = [], [], []
    counted = torch.ones(len(crowds), dtype=torch.float64)
    for at, (row, number) in enumerate(places):
        crowd = crowds[row]
        own = crowd.who[number]
        embedded = reader.embed(images[at : at + 1], own.domain)
        first, second = gallery.first[own.domain], gallery.second[own.domain]
        place = torch.tensor([gallery.row(own)])
        identity.append(measures.normalised_identity(embedded, first, second, place))
        hit.append(measures.retrieved(embedded, first, place).double())
        likeness = [
            float(embedded[0] @ first[gallery.row(who)]) if who.domain == own.domain else 0.0
            for who in crowd.who
        ]
        leaked.append(regions.leaked(guesses, at, crowd.who, number, likeness))
        if not regions.shows(guesses, at, own.domain):
            counted[row] = 0
    return Scores(
        torch.cat(identity).double(),
        torch.cat(hit),
        torch.tensor(leaked, dtype=torch.float64),
        counted,
        right,
        of,
    )


def figures(scores: Scores, single: Scores | None, base: Scores, seed: int) -> dict:
    """The agreed keys, and what stands behind them; single is the same method's, one by one."""
    interval = core("evaluation.measures").bootstrap_interval
    identity = float(scores.identity.mean())
    made = {
        "identity": round(identity, 4),
        "identity_ci": interval(scores.identity, seed),
        "retrieval_at_1": round(float(scores.hit.mean()), 4),
        "leakage": round(float(scores.leaked.mean()), 4),
        "leakage_ci": interval(scores.leaked, seed),
        "count_right": round(float(scores.counted.mean()), 4),
        "prompt": round(float(scores.right.sum() / scores.of.sum()), 4),
        "prompt_relative": round(float(scores.right.sum() / base.right.sum().clamp_min(1)), 4),
    }
    if single is not None:
        alone = float(single.identity.mean())
        made["identity_single"] = round(alone, 4)
        made["identity_relative"] = round(identity / alone, 4) if alone > 0 else None
    return made


def singles_of(crowds: Sequence[Any]) -> list[Any]:
    return [crowd.alone(number) for crowd in crowds for number in range(len(crowd.who))]


@dataclass(frozen=True)
class Way:
    """A method for subjects of some domains: method(domain, number, of) puts in number of them.

    A way that keeps subjects apart draws one by itself as the way `alone` does.
    """

    domains: frozenset[str]
    method: Callable[[str, int, int], Any]
    separation: Any = None
    alone: str | None = None

    def of(self, crowds: Sequence[Any]) -> list[int]:
        """The rows of crowds in which it knows every domain."""
        return [
            row
            for row, crowd in enumerate(crowds)
            if self.domains.issuperset(who.domain for who in crowd.who)
        ]


def shown_by_all(crowds: Sequence[Any], ways: Iterable[Way], most: int = 6) -> list[int]:
    """The first rows that every way can draw, or the first ones of all where there are none."""
    every = [set(way.of(crowds)) for way in ways]
    shared = [row for row in range(len(crowds)) if all(row in rows for rows in every)]
    return (shared or list(range(len(crowds))))[:most]


REMEDIES: Mapping[str, tuple[str, bool]] = {
    "soft": ("soft", False),
    "exclusive": ("exclusive", False),
    "bounded": ("off", True),
    "soft, bounded": ("soft", True),
    "exclusive, bounded": ("exclusive", True),
}


def with_remedies(nested: Way) -> dict[str, Way]:
    """Ours with each remedy for several subjects (docs/several_subjects.md), and with both."""
    separation = core("separation").Separation
    return {
        f"nested, {name}": Way(nested.domains, nested.method, separation(*how), "nested")
        for name, how in REMEDIES.items()
    }


def ways(trained_folder: Path | None, remedies: bool = False) -> dict[str, Way]:
    """Ours as shipped, with the remedies where these are asked for, and, for the domains that they
    have been trained for, the peers' ways, and ours trained like them."""
    domains = artists.domains()
    ours = {domain: artists.shipped(domain).method for domain in domains}
    found = {"nested": Way(frozenset(domains), lambda domain, number, of: ours[domain])}
    if remedies:
        found |= with_remedies(found["nested"])
    alike = {d: artists.compared(None, trained_folder, d)[1:] for d in domains}
    methods = {d: {artist.name: artist.method for artist in those} for d, those in alike.items()}

    def those_with(name: str) -> dict[str, Any]:
        return {d: those[name] for d, those in methods.items() if name in those}

    placed = core("evaluation.baselines.decoupled").Placed
    decoupled, appended = those_with("decoupled"), those_with("appended_tokens")
    # The shipped encoders were trained for longer than the peers' ways.
    as_long = those_with("nested")
    if as_long:
        found["nested, trained as long as these"] = Way(
            frozenset(as_long), lambda domain, number, of: as_long[domain]
        )
    if decoupled:
        found["decoupled, masked"] = Way(
            frozenset(decoupled),
            lambda domain, number, of: placed(decoupled[domain], (number / of, (number + 1) / of)),
        )
    if appended:
        found["appended_tokens"] = Way(
            frozenset(appended), lambda domain, number, of: appended[domain]
        )
    return found


def run(
    painter: Painter,
    reader: Reader,
    plan: Plan,
    strength: float,
    trained_folder: Path | None,
    out: Path | None,
    remedies: bool = False,
) -> dict:
    """Draws, reads and returns pairs and triples of every method, and the base's."""
    started = time.monotonic()
    gallery = gallery_of(plan.gallery, reader, painter.studio.vision)
    every: dict[str, dict] = {}
    for name, size, count in (("pairs", 2, plan.pairs), ("triples", 3, plan.triples)):
        crowds = core("evaluation.crowds").crowds(gallery.pools, size, count, plan.seed)
        log(f"{name}: {count} pictures, the base")
        plain = drawer(painter, gallery, None, 0.0, plan.seed)(crowds)
        base = read(crowds, plain, gallery, reader)
        every.setdefault("base", {})[name] = figures(base, None, base, plan.seed)
        known_ways = ways(trained_folder, remedies)
        columns = shown_by_all(crowds, known_ways.values())
        shown = [Row("the base with the class words", list(plain[columns]))]
        by_themselves: dict[str, Scores] = {}
        for who, way in known_ways.items():
            rows = way.of(crowds)
            if not rows:
                continue
            known = [crowds[row] for row in rows]
            log(f"{name}: {len(known)} pictures and their subjects alone, {who}")
            draw = drawer(painter, gallery, way.method, strength, plan.seed, way.separation)
            pictures = draw(known)
            scores = read(known, pictures, gallery, reader)
            if way.alone is None:
                alone = singles_of(known)
                by_themselves[who] = read(alone, draw(alone), gallery, reader)
            single = by_themselves[way.alone or who]
            without = read(known, plain[rows], gallery, reader)
            made = figures(scores, single, without, plan.seed)
            made["kinds"] = by_kind(known, scores, single, without)
            every.setdefault(who, {})[name] = made
            if set(columns) <= set(rows):
                shown.append(
                    Row(TITLES.get(who, who), list(pictures[[rows.index(row) for row in columns]]))
                )
        if out:
            told = references([crowds[row] for row in columns], gallery)
            save(sheet([*told, *shown]), out / f"multi-{name}.jpg")
    return {
        "seed": plan.seed,
        "strength": strength,
        "sampling": asdict(painter.how),
        **painter.about,
        "pairs": every["nested"]["pairs"],
        "triples": every["nested"]["triples"],
        "methods": every,
        "seconds": round(time.monotonic() - started, 1),
    }


def by_kind(crowds: Sequence[Any], scores: Scores, single: Scores, base: Scores) -> dict:
    """The figures by the domains of the subjects."""
    rows: dict[str, list[int]] = {}
    owner = [row for row, crowd in enumerate(crowds) for _ in crowd.who]
    for row, crowd in enumerate(crowds):
        rows.setdefault(" + ".join(sorted(who.domain for who in crowd.who)), []).append(row)
    made = {}
    for kind, those in rows.items():
        at = torch.tensor([number for number, row in enumerate(owner) if row in set(those)])
        made[kind] = {
            "pictures": len(those),
            "identity": round(float(scores.identity[at].mean()), 4),
            "identity_single": round(float(single.identity[at].mean()), 4),
            "leakage": round(float(scores.leaked[at].mean()), 4),
            "count_right": round(float(scores.counted[torch.tensor(those)].mean()), 4),
            "prompt_relative": round(
                float(scores.right[at].sum() / base.right[at].sum().clamp_min(1)), 4
            ),
        }
    return made


def references(crowds: Sequence[Any], gallery: Gallery) -> list[Row]:
    """One row of reference pictures for each place from the left."""
    return [
        Row(
            f"reference {number + 1}",
            [
                gallery.pictures[crowd.who[number].domain][gallery.row(crowd.who[number])]
                for crowd in crowds
            ],
        )
        for number in range(len(crowds[0].who))
    ]
