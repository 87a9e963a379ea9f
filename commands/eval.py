"""Measures the miniature: its base by itself (--base), and what methods do with held-out subjects.

Everything is seeded: the same command prints the same figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pack


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py eval", description=__doc__)
    made.add_argument("--json", type=Path, help="write the figures there, too")
    made.add_argument("--out", type=Path, help="folder for contact sheets")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=10, help="sampling steps")
    made.add_argument("--cfg", type=float, default=3.0, help="guidance")
    made.add_argument("--ruler", type=Path, help="another ruler than the shipped one")
    made.add_argument(
        "--checkpoint", type=Path, help="another miniature.safetensors, or a base's state.pt"
    )
    modes = made.add_mutually_exclusive_group()
    modes.add_argument("--base", action="store_true", help="judge the base by itself")
    base = made.add_argument_group("with --base")
    base.add_argument("--count", type=int, default=60, help="prompts a domain, and of pairs")
    base.add_argument("--plain-only", action="store_true", help="no captions that name identity")
    return made


def start() -> None:
    """The host's code, with the fastest attention on a CPU."""
    pack.start_host()
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    from stages.common import threads

    torch.set_num_threads(threads())


def base(arguments: argparse.Namespace) -> dict:
    from evaluate import base as judge
    from evaluate.painter import Sampling, open_painter
    from evaluate.reading import open_reader

    return judge.run(
        open_painter(arguments.checkpoint),
        open_reader(arguments.ruler),
        arguments.count,
        arguments.seed,
        Sampling(arguments.steps, arguments.cfg),
        arguments.out,
        told=not arguments.plain_only,
    )


def main() -> int:
    arguments = parser().parse_args()
    start()
    report = base(arguments)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
