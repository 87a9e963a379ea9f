"""Trains the whole miniature from nothing; hours on two cores, and resumable.

On a CPU, stages that need nothing of each other run two at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

import pack

from . import compare, lanes
from .common import core

# What docs/miniature.md compares: every method trained for a part of the shipped encoders' steps.
COMPARISON = ["--steps", "400", "--batch", "16"]

Stage = list[str]
Lane = list[Stage]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def phases(domains: tuple[str, ...], compared: tuple[str, ...]) -> list[list[Lane]]:
    """Phases come one after another, and so do the stages of a lane; the lanes of a phase need
    nothing of each other."""
    settings = pack.ROOT / "configs" / "miniature"
    return [
        [[["data"]]],
        [[["base"]], [["autoencoder"], ["backbone"], ["ruler"], ["references"]]],
        [[["export"]]],
        # The longest first.
        [[[str(settings / f"{domain}.toml")]] for domain in reversed(domains)],
        [[["compare", *COMPARISON, "--domain", domain]] for domain in compared],
    ]


def jobs(lane: Lane) -> list[lanes.Job]:
    return [lanes.Job(Path(stage[-1]).stem, "train.py", stage) for stage in lane]


def run(arguments: argparse.Namespace) -> None:
    for phase in phases(core("training.miniature.identities").DOMAINS, compare.DOMAINS):
        failed = lanes.run_all([jobs(lane) for lane in phase])
        if failed:
            names = " and ".join(failed)
            raise SystemExit(f"Stopped at: {names}. Run the same command again to go on.")
