"""Trains the whole miniature from nothing, stage after stage; hours on two cores, and resumable."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pack

from .common import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def run(arguments: argparse.Namespace) -> None:
    stages = [
        ["data"],
        ["base"],
        ["autoencoder"],
        ["backbone"],
        ["ruler"],
        ["references"],
        ["export"],
        *([str(path)] for path in sorted((pack.ROOT / "configs" / "miniature").glob("*.toml"))),
        ["compare"],
    ]
    for stage in stages:
        log(f"stage {' '.join(stage)}")
        # A process of its own for each: what one held in memory is gone for the next.
        command = [sys.executable, str(pack.ROOT / "commands" / "train.py"), *stage]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"Stage {stage[0]} stopped; run the same command again to go on.")
