"""Draws the miniature's training pictures."""

from __future__ import annotations

import argparse

from .common import STATE, core, log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", type=int, default=0, help="which share of the shards to draw")
    parser.add_argument("--of", type=int, default=1, help="into how many shares they are divided")


def run(arguments: argparse.Namespace) -> None:
    dataset = core("training.miniature.dataset")

    def progress(done: int, total: int) -> None:
        log(f"drawn {done} of {total} pictures")

    dataset.build(STATE / "data", dataset.Plan(), progress, arguments.part, arguments.of)
