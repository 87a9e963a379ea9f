"""Units of work: one domain drawn by one method at one strength; each is kept when it is done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stages.common import core, log

from .artists import Artist
from .exam import Exam
from .reading import Reader, stack
from .sheets import tile
from .studios import Painter

# Changes when what a unit holds changes its meaning.
VERSION = 1
STRIP = 12
# rows of the exam, seeds -> pictures (n, H, W, 3)
Draw = Callable[[list[int], list[int]], Tensor]


@dataclass(frozen=True)
class Unit:
    """What came of a domain's pictures, one number a picture.

    right, of   right answers and questions about the prompt
    identity    normalised identity, and hit: whether retrieved; NaN where colours are lost
    diversity   mean distance over seeds, one number a prompt; empty where it was not asked for
    strip       a file with the first pictures side by side
    """

    right: Tensor
    of: Tensor
    identity: Tensor
    hit: Tensor
    diversity: Tensor
    seconds: float
    strip: Path


@dataclass(frozen=True)
class Desk:
    """Whom the units are drawn by, read by, and kept by."""

    painter: Painter
    reader: Reader
    folder: Path
    base_fingerprint: str
    ruler_fingerprint: str

    def key(self, exam: Exam, who: str, strength: float, varied: bool) -> str:
        about = [
            VERSION,
            self.base_fingerprint,
            self.ruler_fingerprint,
            exam.settings(self.painter.how),
        ]
        text = json.dumps([*about, who, strength, varied], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def plain(self, exam: Exam) -> Unit:
        """The base, with the class word."""

        def draw(rows: list[int], seeds: list[int]) -> Tensor:
            return self.painter.plain([exam.captions[row] for row in rows], seeds)

        return self._unit(exam, "base", "", 0.0, True, draw)

    def of(self, exam: Exam, artist: Artist, strength: float, varied: bool) -> Unit:
        """A method at one strength; `varied`: with pictures for the diversity."""

        def draw(rows: list[int], seeds: list[int]) -> Tensor:
            prompts = [exam.prompts[row] for row in rows]
            features = exam.features[exam.who[rows]]
            return artist.draw(self.painter, features, prompts, seeds, strength)

        return self._unit(exam, artist.name, artist.fingerprint, strength, varied, draw)

    def real(self, exam: Exam) -> Unit:
        """The real pictures of the same captions."""
        pictures = stack([case.picture for case in exam.cases])
        return self._read(exam, pictures, torch.empty(0), 0.0, Path())

    def _unit(
        self, exam: Exam, name: str, prints: str, strength: float, varied: bool, draw: Draw
    ) -> Unit:
        stem = f"{exam.domain}-{name}-{strength:g}-"
        path = self.folder / (stem + self.key(exam, prints, strength, varied) + ".json")
        strip = path.with_suffix(".png")
        if path.exists() and strip.exists():
            return _load(path)
        log(f"{exam.domain}: {name} at {strength:g}, {len(exam.cases)} pictures")
        started = time.monotonic()
        drawn = draw(list(range(len(exam.cases))), exam.seeds)
        diversity = self._diversity(exam, draw) if varied else torch.empty(0)
        _save_strip(drawn[:STRIP], strip)
        unit = self._read(exam, drawn, diversity, time.monotonic() - started, strip)
        _save(unit, path)
        return unit

    def _diversity(self, exam: Exam, draw: Draw) -> Tensor:
        rows, seeds = exam.variety
        distance = core("evaluation.measures").pairwise_distance
        pictures = draw(rows, seeds).split(exam.size.seeds)
        return torch.stack([distance(part) for part in pictures])

    def _read(
        self, exam: Exam, drawn: Tensor, diversity: Tensor, seconds: float, strip: Path
    ) -> Unit:
        measures = core("evaluation.measures")
        guesses = self.reader.answers(drawn)
        right, of = core("evaluation.answers").right(guesses, exam.labels, exam.asked)
        embedded = self.reader.embed(drawn, exam.domain)
        identity = measures.normalised_identity(embedded, exam.first, exam.second, exam.who)
        hit = measures.retrieved(embedded, exam.first, exam.who).double()
        lost = ~exam.colours
        return Unit(
            right,
            of,
            identity.double().masked_fill(lost, torch.nan),
            hit.masked_fill(lost, torch.nan),
            diversity,
            round(seconds, 1),
            strip,
        )


def _save_strip(pictures: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = [tile(picture) for picture in pictures]
    made = Image.new("RGB", (sum(image.width for image in tiles), tiles[0].height))
    for column, image in enumerate(tiles):
        made.paste(image, (column * image.width, 0))
    made.save(path)


def _save(unit: Unit, path: Path) -> None:
    content: dict[str, Any] = {
        name: value.tolist() for name, value in vars(unit).items() if isinstance(value, Tensor)
    }
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({**content, "seconds": unit.seconds}), encoding="utf-8")
    unfinished.replace(path)


def _load(path: Path) -> Unit:
    content = json.loads(path.read_text(encoding="utf-8"))
    seconds = content.pop("seconds")
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in content.items()}
    return Unit(**tensors, seconds=seconds, strip=path.with_suffix(".png"))
