"""Sheets of one domain: subjects in several prompts, and all methods side by side."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.common import core

from . import figures
from .artists import NAME, Artist
from .exam import Exam
from .plots import TITLES
from .sheets import TILE, Row, save, sheet
from .studios import Painter
from .units import STRIP, Desk

SUBJECTS = 6
# Scene, style, place of the columns.
PLACES = (
    ("beach", "", ""),
    ("forest", "", ""),
    ("starry sky", "", "on the left"),
    ("city", "pixel art", ""),
    ("mountain", "pencil sketch", ""),
)


def prompts(domain: str, noun: str, seed: int) -> list[str]:
    """One caption a column, the looks drawn by lot."""
    drawing, scenes = core("training.miniature.drawing"), core("training.miniature.scenes")
    rng = random.Random(f"portraits {domain} {seed}")
    return [
        scenes.caption([scenes.phrase(noun, drawing.words_of(domain, rng))], *where)
        for where in PLACES
    ]


def write(
    out: Path,
    painter: Painter,
    desk: Desk,
    exam: Exam,
    artists: Sequence[Artist],
    answers: Mapping[str, Mapping[float, figures.Answers]],
    strength: float,
) -> None:
    """Both sheets of a domain, the second one where there is more than one method."""
    save(subjects_sheet(painter, exam, artists[0]), out / f"{exam.domain}.jpg")
    if len(artists) > 1:
        save(methods_sheet(desk, exam, answers, strength), out / f"{exam.domain}-methods.jpg")


def subjects_sheet(painter: Painter, exam: Exam, artist: Artist) -> Image.Image:
    """Reference and the subject in every prompt; below, the base with the same seeds."""
    named = prompts(exam.domain, f"<{NAME}>", exam.seed)
    plain = prompts(exam.domain, exam.domain, exam.seed)
    seeds = [900_000 + exam.seed * 1000 + column for column in range(len(named))]
    count = min(SUBJECTS, len(exam.pictures))
    features = exam.features[:count].repeat_interleave(len(named), 0)
    drawn = artist.draw(painter, features, named * count, seeds * count, 1.0)
    rows = [
        Row("", (exam.pictures[row], *part)) for row, part in enumerate(drawn.split(len(named)))
    ]
    base = painter.plain(plain, seeds)
    blank = torch.ones_like(exam.pictures[0])
    rows.append(Row("the base with the class word, same seeds", (blank, *base)))
    heads = ["reference", *(", ".join(part for part in where if part) for where in PLACES)]
    return sheet(rows, heads)


def methods_sheet(
    desk: Desk,
    exam: Exam,
    answers: Mapping[str, Mapping[float, figures.Answers]],
    strength: float,
) -> Image.Image:
    """Columns are pictures of the exam: the reference, every method at that strength, and the base
    with the same seed."""
    rows = [Row("reference", list(exam.pictures[exam.who[:STRIP]]))]
    for name, curve in answers.items():
        head = f"{TITLES.get(name, name)}, strength {strength:g}"
        rows.append(Row(head, _tiles(curve[strength].unit.strip)))
    rows.append(Row("base with the class word", _tiles(desk.plain(exam).strip)))
    return sheet(rows)


def _tiles(path: Path) -> list[Tensor]:
    """The pictures of a unit's strip."""
    with Image.open(path) as strip:
        pixels = torch.from_numpy(np.asarray(strip.convert("RGB")).copy()).float() / 255
    return list(pixels.split(TILE, 1))
