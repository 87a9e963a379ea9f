"""Trains the whole miniature from nothing; hours on two cores, and resumable.

On a CPU, stages that need nothing of each other run two at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

import pack

from . import compare, lanes, precision
from .common import core

# What docs/miniature.md compares: every method trained for a part of the shipped encoders' steps.
COMPARISON = ["--steps", "400", "--batch", "16"]

Stage = list[str]
Lane = list[Stage]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def phases(domains: tuple[str, ...], compared: tuple[str, ...], products: str) -> list[list[Lane]]:
    """Phases come one after another, and so do the stages of a lane; the lanes of a phase need
    nothing of each other. `products`: the precision of encoders' trainings; other stages find
    theirs themselves."""
    settings = pack.ROOT / "configs" / "miniature"
    fast = ["--set", f"run.precision={products}"]
    return [
        [[["data", "--part", part, "--of", "2"]] for part in ("0", "1")],
        [[["base"]], [["autoencoder"], ["backbone"], ["ruler"], ["references"]]],
        [[["export"]]],
        # The longest first.
        [[[str(settings / f"{domain}.toml"), *fast]] for domain in reversed(domains)],
        [[["compare", *COMPARISON, "--domain", domain, *fast]] for domain in compared],
    ]


def jobs(lane: Lane) -> list[lanes.Job]:
    return [lanes.Job(label(stage), "train.py", stage) for stage in lane]


def label(stage: Stage) -> str:
    """What tells it apart from those that run at the same time."""
    for option in ("--domain", "--part"):
        if option in stage:
            return f"{stage[0]} {stage[stage.index(option) + 1]}"
    return Path(stage[0]).stem


def run(arguments: argparse.Namespace) -> None:
    domains = core("training.miniature.identities").DOMAINS
    for phase in phases(domains, compare.DOMAINS, precision.fast()):
        failed = lanes.run_all([jobs(lane) for lane in phase])
        if failed:
            names = " and ".join(failed)
            raise SystemExit(f"Stopped at: {names}. Run the same command again to go on.")
