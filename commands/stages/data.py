"""Draws the miniature's training pictures, or, with --sheet, a picture of what they look like."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import STATE, core, log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", type=int, default=0, help="which share of the shards to draw")
    parser.add_argument("--of", type=int, default=1, help="into how many shares they are divided")
    parser.add_argument("--sheet", type=Path, help="draw only this contact sheet, and no data")


def held_out():
    """Pictures and records of held-out subjects, drawn where they are not there yet."""
    dataset = core("training.miniature.dataset")
    plan = dataset.Plan(pictures=600, pairs=900, held_out=True)
    dataset.build(STATE / "held", plan, lambda done, total: None)
    return dataset.load(STATE / "held")


def run(arguments: argparse.Namespace) -> None:
    if arguments.sheet:
        from evaluate import worlds

        log(f"wrote {worlds.write(arguments.sheet)}")
        return
    dataset = core("training.miniature.dataset")

    def progress(done: int, total: int) -> None:
        log(f"drawn {done} of {total} pictures")

    dataset.build(STATE / "data", dataset.Plan(), progress, arguments.part, arguments.of)
