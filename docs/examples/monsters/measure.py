"""What an encoder for monsters does with held-out monsters, in the measures of dev.py eval.

    python docs/examples/monsters/measure.py ENCODER.safetensors --json monster.json --out sheets

A monster ruler (ruler.py) reads the pictures. The base, which knows no monsters, is shown the
encoder's class word where there is no subject.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import monsters  # isort: skip (it puts the commands on the path)
import torch
from PIL import Image

import eval as evaluation
import pack
import ruler
from evaluate import domains, pages, portraits, printing, shipped, studios, units
from evaluate.artists import NAME, Artist, open_artist
from evaluate.exam import Exam, Size
from evaluate.reading import Reader, stack
from evaluate.sheets import Row, save, sheet
from methods.sampling import Settings
from monsters import DOMAIN, MOODS, Picture, draw, scenes, styles
from stages.common import MODELS, STATE, core, log

ENCODER = STATE / "encoder_monster" / "monster.safetensors"
SUBJECTS = 6


@dataclass(frozen=True)
class Case:
    """A real picture of a held-out monster, whose caption is the prompt."""

    picture: Picture
    class_word: str

    def prompt(self, nouns: Sequence[str] | None = None) -> str:
        """The caption with a noun for the monster; the class word where None."""
        return self.picture.prompt([self.class_word] if nouns is None else nouns)


@dataclass(frozen=True)
class Encoder:
    """An encoder's file: as the batches draw with it, and as the nodes load it."""

    path: Path

    @cached_property
    def artist(self) -> Artist:
        return open_artist(self.path)

    @property
    def class_word(self) -> str:
        return self.artist.domain

    def graph(self, painter: studios.Painter) -> shipped.Graph:
        """The nodes with this file in place of a shipped one."""
        made = shipped.Graph.__new__(shipped.Graph)
        made.studio, made.how, made.nodes = painter.studio, painter.how, shipped.host("nodes")
        made.encoder = (pack.module("nodes.host.memory").load(self.path, self.path.name),)
        made.empty = made.encode(made.studio.clip, "")
        return made


def prepare(class_word: str, seed: int, size: Size, reader: Reader, studio: Any) -> Exam:
    """The questions: held-out monsters in turn, over styles and places in turn as for the
    miniature's own domains; unlike there, the prompts are not held out."""
    kinds = core("evaluation.cases").KINDS
    pool = monsters.monsters(held_out=True)[: size.gallery]
    cases = []
    for row in range(size.pictures):
        turn, place = divmod(row, size.subjects)
        style, where = kinds[(row + turn) % len(kinds)]
        cases.append(Case(draw(pool[place], f"eval {seed} {row}", style, where), class_word))
    plain = [
        stack([draw(who, f"eval {which} {who.key}", "", "") for who in pool])
        for which in ("reference", "second")
    ]
    labels = ruler.labels_of([case.picture for case in cases])
    return Exam(
        DOMAIN,
        seed,
        size,
        cases,
        torch.arange(size.pictures) % size.subjects,
        labels,
        ruler.asked_for(labels),
        torch.tensor([case.picture.style not in styles.COLOURLESS for case in cases]),
        plain[0],
        reader.embed(plain[0], DOMAIN),
        reader.embed(plain[1], DOMAIN),
        studio.features(plain[0]),
    )


def examine(desk: units.Desk, exam: Exam, encoder: Encoder, plan: domains.Plan) -> dict:
    """The figures of dev.py eval for one domain."""
    artist, graph = encoder.artist, encoder.graph(desk.painter)
    plan = replace(plan, strengths=sorted({domains.TRAINED, *plan.strengths}))
    answers = domains.answers_of(desk, exam, artist, desk.plain(exam), plan)
    return {
        **domains.headline(answers, desk, exam, plan),
        "prior_change": shipped.prior_change(graph, exam, plan.node_rows),
        "nodes_difference": shipped.node_difference(
            graph, desk.painter, exam, artist, plan.node_rows
        ),
    }


def subjects_sheet(painter: studios.Painter, exam: Exam, artist: Artist) -> Image.Image:
    """Reference and the monster in five prompts; below, the base with the same seeds."""
    moods = [*MOODS, next(iter(MOODS))]

    def prompts(noun: str) -> list[str]:
        spoken = [scenes.phrase(noun, {"mood": mood}) for mood in moods]
        places = zip(spoken, portraits.PLACES, strict=True)
        return [scenes.caption([who], *where) for who, where in places]

    named, plain = prompts(f"<{NAME}>"), prompts(artist.domain)
    seeds = [900_000 + column for column in range(len(named))]
    count = min(SUBJECTS, len(exam.pictures))
    features = exam.features[:count].repeat_interleave(len(named), 0)
    drawn = artist.draw(painter, features, named * count, seeds * count, domains.TRAINED)
    parts = enumerate(drawn.split(len(named)))
    rows = [Row("", (exam.pictures[row], *part)) for row, part in parts]
    blank = torch.ones_like(exam.pictures[0])
    rows.append(Row(f'the base with "{artist.domain}"', (blank, *painter.plain(plain, seeds))))
    where = [", ".join(filter(None, place)) for place in portraits.PLACES]
    heads = [f"{mood}, {place}" for mood, place in zip(moods, where, strict=True)]
    return sheet(rows, ["reference", *heads])


def run(words: argparse.Namespace) -> dict:
    started = time.monotonic()
    evaluation.start()
    plan = evaluation.plan_of(words)
    painter = studios.open_painter(words.checkpoint, Settings(words.steps, words.cfg))
    reader, encoder = Reader(*ruler.open_ruler(words.ruler)), Encoder(words.encoder)
    exam = prepare(encoder.class_word, plan.seed, plan.size, reader, painter.studio)
    print_of = core("fingerprint").file_fingerprint
    base = print_of(words.checkpoint or MODELS / "miniature.safetensors")
    desk = units.Desk(painter, reader, words.keep, base, print_of(words.ruler))
    found = examine(desk, exam, encoder, plan)
    if words.out:
        log(f"{save(subjects_sheet(painter, exam, encoder.artist), words.out / 'monster.jpg')}")
    return {
        "mode": "monsters",
        "command": shlex.join(["docs/examples/monsters/measure.py", *command()]),
        "seed": plan.seed,
        "images_per_domain": plan.size.pictures,
        "sampling": asdict(painter.how),
        **painter.about,
        "class_word": encoder.class_word,
        "domains": {DOMAIN: found},
        "seconds": round(time.monotonic() - started, 1),
    }


def command() -> list[str]:
    """What was asked for, without the places that change no figure."""
    words = printing.without({"--json", "--out", "--keep", "--page"}, sys.argv[1:])
    return [word for word in words if not word.endswith(".safetensors")]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("encoder", type=Path, nargs="?", default=ENCODER)
    made.add_argument("--json", type=Path, help="write the figures there, too")
    made.add_argument("--out", type=Path, help="folder for a sheet")
    made.add_argument(
        "--page", type=Path, help="write them into the block `figures: monsters` of this page"
    )
    made.add_argument("--full", action="store_true", help="200 pictures, five strengths")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=10, help="sampling steps")
    made.add_argument("--cfg", type=float, default=3.0, help="guidance")
    made.add_argument("--pictures", type=int, help="a strength")
    made.add_argument("--gallery", type=int, help="held-out monsters to be told apart")
    made.add_argument("--subjects", type=int, help="how many of them are drawn")
    made.add_argument("--strengths", type=float, nargs="+")
    made.add_argument("--checkpoint", type=Path, help="another miniature.safetensors")
    made.add_argument("--ruler", type=Path, default=ruler.FILE)
    made.add_argument("--keep", type=Path, default=STATE.parent / "eval", help="what is done")
    return made


def main() -> int:
    words = parser().parse_args()
    report = run(words)
    print("\n".join(printing.domain_lines(report)))
    printing.keep(report, words.json)
    if words.page:
        text = words.page.read_text(encoding="utf-8")
        filled = pages.filled(text, "monsters", pages.domains(report))
        words.page.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
