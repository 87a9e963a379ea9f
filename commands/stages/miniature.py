"""Trains the whole miniature from nothing; hours on two cores, and resumable.

On a CPU, stages that need nothing of each other run two at a time: two trainings of one thread each
get further than one after the other with both."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pack

from . import compare
from .common import core, device, log, threads

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


def run_lane(lane: Lane, share: int) -> str | None:
    """Runs the stages with `share` threads each; the first that failed, or None."""
    environment = os.environ | {"NESTED_THREADS": str(share), "OMP_NUM_THREADS": str(share)}
    for stage in lane:
        log(f"stage {' '.join(stage)}")
        # A process of its own for each: what one held in memory is gone for the next.
        command = [sys.executable, str(pack.ROOT / "commands" / "train.py"), *stage]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                print(f"[{Path(stage[-1]).stem}]", line, end="", flush=True)
        if child.returncode:
            return " ".join(stage)
    return None


def run(arguments: argparse.Namespace) -> None:
    at_once = 2 if device().type == "cpu" and threads() > 1 else 1
    for lanes in phases(core("training.miniature.identities").DOMAINS, compare.DOMAINS):
        side_by_side = min(at_once, len(lanes))
        shares = [threads() // side_by_side] * len(lanes)
        with ThreadPoolExecutor(side_by_side) as workers:
            failed = [stage for stage in workers.map(run_lane, lanes, shares) if stage]
        if failed:
            names = " and ".join(failed)
            raise SystemExit(f"Stopped at: {names}. Run the same command again to go on.")
