"""`dev.py eval --inpaint`: held-out subjects into the holes of photos, by the host's noise mask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.sampling import Cast, Into
from stages.common import core, log

from . import artists
from .multi import Gallery, gallery_of
from .reading import Reader
from .sheets import Row, save, sheet
from .studios import Painter, in_batches

NAME = "anna"
SHOWN = 2  # pictures a domain on the sheet


@dataclass(frozen=True)
class Plan:
    """Pictures a domain, of how many held-out subjects to be told apart."""

    pictures: int = 60
    gallery: int = 32
    seed: int = 0


QUICK = Plan(pictures=20)


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, H, W, 3) of the same holes and seeds. `put` and `plain` (with the class word)
    lie in the photo; `raw` is `put` as it came out of the autoencoder; `free` has no photo."""

    put: Tensor
    plain: Tensor
    raw: Tensor
    free: Tensor


def draw(
    painter: Painter,
    method: Any,
    holes: Sequence[Any],
    features: Tensor,
    strength: float,
    seed: int,
) -> Drawn:
    studio, domain = painter.studio, holes[0].who.domain
    photos = torch.stack([hole.photo for hole in holes])
    masks = torch.stack([hole.mask for hole in holes])[:, None]
    seeds = [seed * 1_000_000 + 900_000 + row for row in range(len(holes))]
    named = [hole.prompt(f"<{NAME}>") for hole in holes]
    plain = [hole.prompt() for hole in holes]

    def some(rows: slice, prompts: Sequence[str], subject: bool, photo: bool) -> Tensor:
        texts = studio.read(prompts[rows], {NAME: domain})
        cast = Cast(method, features[rows], texts.positions[NAME], strength)
        into = Into(studio.vae.encode(photos[rows]), masks[rows]) if photo else None
        return studio.draw(texts, seeds[rows], [cast] * subject, painter.how, into)

    def all_of(prompts: Sequence[str], subject: bool, photo: bool) -> Tensor:
        return in_batches(len(holes), lambda rows: some(rows, prompts, subject, photo))

    def laid(pictures: Tensor) -> Tensor:
        return torch.where(masks.movedim(1, -1) > 0, pictures, photos)

    raw = all_of(named, True, True)
    return Drawn(laid(raw), laid(all_of(plain, False, True)), raw, all_of(named, True, False))


@dataclass(frozen=True)
class Scores:
    """One number a picture: what the hole's half shows, the rest being put back to the scene."""

    identity: Tensor
    hit: Tensor
    seen: Tensor
    right: Tensor
    of: Tensor


def read(holes: Sequence[Any], pictures: Tensor, gallery: Gallery, reader: Reader) -> Scores:
    regions, measures = core("evaluation.regions"), core("evaluation.measures")
    attributes, answers = core("training.miniature.attributes"), core("evaluation.answers")
    images = torch.stack(
        [
            regions.alone(picture, hole.scene, hole.number, 2)
            for hole, picture in zip(holes, pictures, strict=True)
        ]
    )
    guesses, labels = reader.answers(images), attributes.labels([hole.record for hole in holes])
    asked = answers.named(labels)
    asked.pop("place")
    right, of = answers.right(guesses, labels, asked)
    domain = holes[0].who.domain
    embedded = reader.embed(images, domain)
    first, second = gallery.first[domain], gallery.second[domain]
    rows = torch.tensor([gallery.row(hole.who) for hole in holes])
    return Scores(
        measures.normalised_identity(embedded, first, second, rows).double(),
        measures.retrieved(embedded, first, rows).double(),
        torch.tensor(
            [regions.shows(guesses, row, domain) for row in range(len(holes))], dtype=torch.float64
        ),
        right,
        of,
    )


def outside(holes: Sequence[Any], pictures: Tensor) -> float:
    """Mean absolute difference to the photos where there is no hole, of 255."""
    photos = torch.stack([hole.photo for hole in holes])
    there = torch.stack([hole.mask for hole in holes]) == 0
    return round(255 * float((pictures - photos).abs().mean(-1)[there].mean()), 3)


def figures(
    holes: Sequence[Any],
    drawn: Drawn,
    painter: Painter,
    gallery: Gallery,
    reader: Reader,
    seed: int,
) -> dict:
    """The agreed keys for what was put in; others' beside them by their ending."""
    measures = core("evaluation.measures")
    photos = torch.stack([hole.photo for hole in holes])
    real = torch.stack([hole.real for hole in holes])
    put = read(holes, drawn.put, gallery, reader)
    others = {
        "without": read(holes, drawn.plain, gallery, reader),
        "free": read(holes, drawn.free, gallery, reader),
        "real": read(holes, real, gallery, reader),
    }
    subjects = torch.tensor([gallery.row(hole.who) for hole in holes])
    made = {
        "pictures": len(holes),
        "gallery": len(gallery.first[holes[0].who.domain]),
        "identity": mean(put.identity),
        "identity_ci": measures.bootstrap_interval(put.identity, seed, subjects),
        "retrieval_at_1": mean(put.hit),
        "retrieval_at_1_ci": measures.bootstrap_interval(put.hit, seed, subjects),
        "seen": mean(put.seen),
        "prompt": ratio(put.right, put.of),
        "prompt_relative": ratio(put.right, others["without"].right),
        "outside": outside(holes, drawn.raw),
        "outside_coded": outside(holes, painter.coded(photos)),
        "outside_laid": outside(holes, drawn.put),
        "outside_free": outside(holes, drawn.free),
    }
    for name, found in others.items():
        made[f"identity_{name}"] = mean(found.identity)
        made[f"retrieval_at_1_{name}"] = mean(found.hit)
        made[f"seen_{name}"] = mean(found.seen)
        made[f"prompt_{name}"] = ratio(found.right, found.of)
    return made


def mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)


def ratio(above: Tensor, below: Tensor) -> float:
    return round(float(above.sum() / below.sum().clamp_min(1)), 4)


def run(
    painter: Painter,
    reader: Reader,
    plan: Plan,
    domains: Sequence[str],
    strength: float,
    out: Path | None,
) -> dict:
    """Draws, reads and returns every domain's holes; `out` gets a sheet of the first ones."""
    started = time.monotonic()
    gallery = gallery_of(plan.gallery, reader, painter.studio.vision)
    found, columns = {}, []
    for domain in domains:
        log(f"{domain}: {plan.pictures} photos")
        holes = core("evaluation.holes").holes(gallery.pools, domain, plan.pictures, plan.seed)
        features = gallery.features_of([hole.who for hole in holes])
        method = artists.shipped(domain).method
        drawn = draw(painter, method, holes, features, strength, plan.seed)
        found[domain] = figures(holes, drawn, painter, gallery, reader, plan.seed)
        columns += [column(holes[row], drawn, row, gallery) for row in range(SHOWN)]
    if out:
        heads = ("photo", "reference", "put into the hole", "the class word alone")
        rows = [
            Row(head, [cells[number] for cells in columns]) for number, head in enumerate(heads)
        ]
        save(sheet(rows), out / "inpaint.jpg")
    return {
        "seed": plan.seed,
        "strength": strength,
        "images_per_domain": plan.pictures,
        "sampling": asdict(painter.how),
        **painter.about,
        "domains": found,
        "seconds": round(time.monotonic() - started, 1),
    }


def column(hole: Any, drawn: Drawn, row: int, gallery: Gallery) -> list[Tensor]:
    """The photo with its hole in grey, the reference, what was put in, the class word."""
    photo = torch.where(hole.mask[..., None] > 0, 0.5, hole.photo)
    reference = gallery.pictures[hole.who.domain][gallery.row(hole.who)]
    return [photo, reference, drawn.put[row], drawn.plain[row]]
