"""Whether an encoder for styles draws the style of a reference, and the prompt in it.

    python docs/examples/styles/measure_styles.py ENCODER.safetensors --sheet styles.jpg

Prompts, references and the subjects on them are held out; a reference shows a subject of another
domain than the prompt's, in another scene. The miniature's ruler reads the pictures, and their mean
colour tells tints apart, which the ruler does not know.
"""

from __future__ import annotations

import argparse
import math
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import styles  # isort: skip (it puts the commands on the path)
import torch
from torch import Tensor

import eval as evaluation
from evaluate.artists import NAME, Artist, open_artist
from evaluate.printing import keep
from evaluate.reading import Reader, open_reader, stack
from evaluate.sheets import Row, sheet
from evaluate.studios import Painter, open_painter
from methods.sampling import Settings
from stages.common import STATE, core, log

ENCODER = STATE / "encoder_style" / "style.safetensors"
COLOURS = ("sepia-photo", *styles.TINTS, *styles.HELD_OUT)  # one hue each
KNOWN, TINTS, HELD_OUT = tuple(styles.KNOWN), tuple(styles.TINTS), tuple(styles.HELD_OUT)
SIDE = 96


@dataclass(frozen=True)
class Question:
    """A prompt, as the caption of a real picture, and the picture that the style is read from."""

    real: styles.Picture
    reference: styles.Picture


def question(row: int, seed: int) -> Question:
    """Held-out subjects and a held-out prompt, the reference's domain and scene others than its."""
    cases, scenes = core("evaluation.cases"), tuple(core("training.miniature.drawing").SCENES)
    rng = random.Random(f"style question {seed} {row}")
    who = styles.subject(row + 3 * seed, held_out=True)
    while True:
        key = f"measure {rng.random()}"
        words = styles.draw(who, "plain", key, scenes[0]).words
        fitting = [s for s in scenes if cases.prompt_held_out(who.domain, words, s, "", "")]
        if fitting:
            break
    scene = rng.choice(fitting)
    # As many subjects of each other domain as possible, and not the prompt's own.
    other = styles.subject(row + 1 + row // 3 % 2 + 3 * (seed + 50), held_out=True)
    elsewhere = rng.choice([s for s in scenes if s != scene])
    return Question(
        styles.draw(who, "plain", key, scene),
        styles.draw(other, "plain", f"reference {key}", elsewhere),
    )


def chroma(images: Tensor) -> Tensor:
    """Mean colour without its brightness: images (n, H, W, 3) -> (n, 2)"""
    red, green, blue = images.mean((1, 2)).unbind(-1)
    return torch.stack([red - (green + blue) / 2, (green - blue) * math.sqrt(3) / 2], -1)


@dataclass(frozen=True)
class Judge:
    """Reads pictures of `questions`; palette: chroma (2,) of each of COLOURS, from references."""

    reader: Reader
    questions: Sequence[Question]
    palette: Mapping[str, Tensor]

    def read(self, style: str, images: Tensor) -> dict[str, Tensor | list[str]]:
        """What one style's pictures show, one entry a picture: style and colour by name; right
        answers and questions about the rest of the prompt; whether the prompt's domain, the
        reference's domain and the reference's scene are read."""
        attributes, answers = core("training.miniature.attributes"), core("evaluation.answers")
        records = [q.real.styled(style).record for q in self.questions]
        labels, guesses = attributes.labels(records), self.reader.answers(images)
        asked = {k: v for k, v in answers.named(labels).items() if k not in ("style", "place")}
        right, of = answers.right(guesses, labels, asked)
        there = attributes.labels([q.reference.record for q in self.questions])
        colours = torch.stack([self.palette[name] for name in COLOURS])
        nearest = torch.cdist(chroma(images), colours).argmin(-1)
        return {
            "style": [KNOWN[index] for index in guesses["style"]],
            "colour": [COLOURS[index] for index in nearest],
            "right": right,
            "of": of,
            "domain": guesses["who"] == labels["who"],
            "reference_domain": guesses["who"] == there["who"],
            "reference_scene": guesses["scene"] == there["scene"],
            "hue_error": hue_error(chroma(images), self.palette.get(style)),
        }


def hue_error(found: Tensor, wanted: Tensor | None) -> Tensor:
    """Degrees between mean colours (n, 2) and one (2,); none where there is no wanted one."""
    if wanted is None:
        return torch.zeros(0)
    turn = torch.atan2(found[:, 1], found[:, 0]) - torch.atan2(wanted[1], wanted[0])
    return torch.rad2deg(torch.atan2(turn.sin(), turn.cos())).abs()


def summary(read: Mapping[str, Mapping], which: Iterable[str], head: str) -> dict:
    """Shares over all pictures of the styles `which`; head: how a style is recognised, by "style"
    or by "colour"."""
    chosen = [(style, read[style]) for style in which if style in read]
    hits = [name == style for style, found in chosen for name in found[head]]

    def mean(key: str) -> float:
        return round(float(torch.cat([found[key].double() for _, found in chosen]).mean()), 4)

    right, of = (torch.cat([found[key] for _, found in chosen]).sum() for key in ("right", "of"))
    errors = torch.cat([found["hue_error"] for _, found in chosen])
    made = {
        "pictures": len(hits),
        "style": round(sum(hits) / len(hits), 4),
        "prompt": round(float(right / of), 4),
        **{key: mean(key) for key in ("domain", "reference_domain", "reference_scene")},
        "read_as": {style: dict(Counter(found[head]).most_common()) for style, found in chosen},
    }
    if len(errors) == len(hits):
        made["hue_error_degrees_median"] = round(float(errors.median()), 1)
    return made


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, H, W, 3) of all questions, by style."""

    real: dict[str, Tensor]
    encoder: dict[str, Tensor]
    told: dict[str, Tensor]
    class_word: Tensor


def draw_all(
    painter: Painter, artist: Artist, questions: Sequence[Question], seed: int, strength: float
) -> Drawn:
    """The same noise for a question in every style."""
    seeds = [seed * 1_000_000 + row for row in range(len(questions))]
    every = (*KNOWN, *TINTS, *HELD_OUT)

    def prompts(style: str) -> list[str]:
        return [q.real.prompt(style) for q in questions]

    def encoded(style: str) -> Tensor:
        references = stack([q.reference.styled(style) for q in questions])
        features = painter.studio.features(references)
        made = artist.draw(painter, features, prompts(f"<{NAME}>"), seeds, strength)
        log(f"{style}: drawn")
        return made

    return Drawn(
        {style: stack([q.real.styled(style) for q in questions]) for style in every},
        {style: encoded(style) for style in every},
        {style: painter.plain(prompts(styles.KNOWN[style]), seeds) for style in KNOWN},
        painter.plain(prompts(artist.domain), seeds),
    )


def figures(judge: Judge, drawn: Drawn) -> dict:
    """By group of styles, then by who drew."""
    every = drawn.real.keys()
    read = {
        "encoder": {s: judge.read(s, images) for s, images in drawn.encoder.items()},
        "told in words": {s: judge.read(s, images) for s, images in drawn.told.items()},
        "class word": {s: judge.read(s, drawn.class_word) for s in every},
        "real pictures": {s: judge.read(s, images) for s, images in drawn.real.items()},
    }
    groups = (
        ("styles that the base knows", KNOWN, "style"),
        ("tints that the base does not know", TINTS, "colour"),
        ("tints that the encoder does not know either", HELD_OUT, "colour"),
    )
    return {
        title: {
            who: summary(found, group, head)
            for who, found in read.items()
            if any(style in found for style in group)
        }
        for title, group, head in groups
    }


def palette(questions: Sequence[Question]) -> dict[str, Tensor]:
    """Mean colour of the references in each of COLOURS."""
    return {
        name: chroma(stack([q.reference.styled(name) for q in questions])).mean(0)
        for name in COLOURS
    }


def contact_sheet(questions: Sequence[Question], drawn: Drawn, columns: int = 3) -> list[Row]:
    """Rows are styles: the first question's reference, then the first questions' pictures."""
    rows = []
    for style, images in drawn.encoder.items():
        reference = stack([questions[0].reference.styled(style)])
        rows.append(Row(style, [*reference, *images[:columns]]))
    rows.append(
        Row("class word", [torch.ones_like(rows[0].pictures[0]), *drawn.class_word[:columns]])
    )
    return rows


def lines(report: dict) -> Iterable[str]:
    """A table for docs/styles.md."""
    yield (
        "| styles | drawn by | style right | rest of the prompt | prompt's domain "
        "| reference's domain | reference's scene | hue error |"
    )
    yield "|" + " --- |" * 8
    for group, found in report["groups"].items():
        for who, line in found.items():
            keys = ("style", "prompt", "domain", "reference_domain", "reference_scene")
            shares = " | ".join(f"{100 * line[key]:.0f} %" for key in keys)
            error = line.get("hue_error_degrees_median")
            yield f"| {group} | {who} | {shares} | {'' if error is None else f'{error:.0f}°'} |"


def run(words: argparse.Namespace) -> dict:
    started = time.monotonic()
    evaluation.start()
    painter = open_painter(None, Settings(words.steps, words.cfg))
    questions = [question(row, words.seed) for row in range(words.questions)]
    artist = open_artist(words.encoder)
    drawn = draw_all(painter, artist, questions, words.seed, words.strength)
    judge = Judge(open_reader(), questions, palette(questions))
    if words.sheet:
        rows = contact_sheet(questions, drawn)
        heads = ["reference", *(q.real.who.domain for q in questions[:3])]
        words.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet(rows, heads, SIDE).save(words.sheet, optimize=True, quality=60)
        log(f"{words.sheet}")
    return {
        "command": shlex.join(["measure_styles.py", *sys.argv[1:]]),
        "class_word": artist.domain,
        "questions": len(questions),
        "strength": words.strength,
        "groups": figures(judge, drawn),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoder", type=Path, nargs="?", default=ENCODER)
    parser.add_argument("--questions", type=int, default=18, help="pictures of each style")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="sampling steps")
    parser.add_argument("--cfg", type=float, default=3.0, help="guidance")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet there")
    words = parser.parse_args()
    report = run(words)
    print("\n".join(lines(report)))
    keep(report, words.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
