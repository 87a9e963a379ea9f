"""Measures the miniature: what methods do with held-out subjects, or its base by itself (--base).

Everything is seeded: the same command prints the same figures on one machine. Without --full only
nested attention is measured, from the shipped weights, in a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import shlex
import sys
import time
from pathlib import Path

import pack


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py eval", description=__doc__)
    made.add_argument("--json", type=Path, help="write the figures there, too")
    made.add_argument("--out", type=Path, help="folder for sheets and plots")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=10, help="sampling steps")
    made.add_argument("--cfg", type=float, default=3.0, help="guidance")
    made.add_argument("--ruler", type=Path, help="another ruler than the shipped one")
    made.add_argument(
        "--checkpoint", type=Path, help="another miniature.safetensors, or a base's state.pt"
    )
    made.add_argument("--domains", nargs="+", help="only these domains")
    made.add_argument(
        "--inpaint",
        action="store_true",
        help="subjects into the holes of photos: 60 photos a domain, 20 with --quick",
    )
    modes = made.add_mutually_exclusive_group()
    modes.add_argument(
        "--quick", action="store_true", help="the default: nested attention, 40 pictures a domain"
    )
    modes.add_argument(
        "--full",
        action="store_true",
        help="every trained method, 200 pictures a "
        "domain and strength; goes on where it was stopped",
    )
    modes.add_argument("--base", action="store_true", help="judge the base by itself")
    made.add_argument(
        "--multi",
        action="store_true",
        help="several subjects in one picture: 180 pairs and 60 triples, 36 and 12 with --quick",
    )
    made.add_argument(
        "--remedies",
        action="store_true",
        help="with --multi: also with each remedy of Separate Subjects, and with both",
    )
    modes.add_argument(
        "--attention", action="store_true", help="which nested tokens which regions choose"
    )
    modes.add_argument("--plots", type=Path, metavar="F", help="plots of a report F, into --out")
    modes.add_argument(
        "--page",
        action="store_true",
        help="all of docs/miniature.md measured anew, and into it; goes on where it was stopped",
    )
    modes.add_argument(
        "--docs", type=Path, nargs="+", metavar="F", help="write reports into docs/miniature.md"
    )
    size = made.add_argument_group("other sizes than those of --quick or --full")
    size.add_argument("--pictures", type=int, help="pictures a domain and strength")
    size.add_argument("--gallery", type=int, help="held-out subjects to be told apart")
    size.add_argument("--subjects", type=int, help="how many of them are drawn")
    size.add_argument("--strengths", type=float, nargs="+")
    size.add_argument(
        "--methods",
        nargs="+",
        help="with --full: these, and nested attention; or shipped, what ships alone",
    )
    made.add_argument("--keep", type=Path, help="folder of what is done already (.local/eval)")
    made.add_argument("--trained", type=Path, help="folder of trained methods (.local/train)")
    base = made.add_argument_group("with --base")
    base.add_argument("--count", type=int, default=60, help="prompts a domain, and of pairs")
    base.add_argument("--plain-only", action="store_true", help="no captions that name identity")
    return made


def start() -> None:
    """The host's code, with the fastest attention on a CPU and without its progress bars."""
    pack.start_host()
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    importlib.import_module("comfy.utils").set_progress_bar_enabled(False)
    import torch

    from stages.common import threads

    torch.set_num_threads(threads())


def open_all(arguments: argparse.Namespace):
    """The painter and the reader."""
    from evaluate.reading import open_reader

    return painter_of(arguments), open_reader(arguments.ruler)


def painter_of(arguments: argparse.Namespace):
    from evaluate.studios import open_painter
    from methods.sampling import Settings

    return open_painter(arguments.checkpoint, Settings(arguments.steps, arguments.cfg))


def judge_base(arguments: argparse.Namespace) -> dict:
    from evaluate import base

    painter, reader = open_all(arguments)
    return base.run(
        painter,
        reader,
        arguments.count,
        arguments.seed,
        arguments.out,
        told=not arguments.plain_only,
        gallery=arguments.gallery or base.GALLERY,
    )


def plan_of(arguments: argparse.Namespace):
    from evaluate import domains

    plan = domains.Plan() if arguments.full else domains.QUICK
    named = ("pictures", "gallery", "subjects")
    sizes = {name: value for name in named if (value := getattr(arguments, name)) is not None}
    size = dataclasses.replace(plan.size, **sizes)
    size = dataclasses.replace(
        size,
        subjects=min(size.subjects, size.gallery),
        prompts=min(size.prompts, size.pictures),
    )
    return dataclasses.replace(
        plan,
        size=size,
        seed=arguments.seed,
        strengths=tuple(arguments.strengths or plan.strengths),
    )


def judge_methods(arguments: argparse.Namespace) -> dict:
    from evaluate import artists, domains, printing, units
    from stages.common import MODELS, core

    painter, reader = open_all(arguments)
    print_of = core("fingerprint").file_fingerprint
    desk = units.Desk(
        painter,
        reader,
        arguments.keep or pack.ROOT / ".local" / "eval",
        print_of(arguments.checkpoint or MODELS / "miniature.safetensors"),
        print_of(arguments.ruler or MODELS / "ruler.safetensors"),
    )
    names = arguments.domains or artists.domains()
    chosen = artists.shipped_only
    if arguments.full and arguments.methods != ["shipped"]:
        chosen = functools.partial(artists.compared, arguments.methods, arguments.trained)
    report = domains.run(painter, desk, reader, chosen, names, plan_of(arguments), arguments.out)
    printing.show(report)
    return report


def judge_crowds(arguments: argparse.Namespace) -> dict:
    from evaluate import multi

    painter, reader = open_all(arguments)
    plan = dataclasses.replace(
        multi.QUICK if arguments.quick else multi.Plan(), seed=arguments.seed
    )
    if arguments.pictures:
        triples = max(1, arguments.pictures // 3)
        plan = dataclasses.replace(plan, pairs=arguments.pictures, triples=triples)
    if arguments.gallery:
        plan = dataclasses.replace(plan, gallery=arguments.gallery)
    strength = (arguments.strengths or [1.0])[0]
    report = multi.run(
        painter, reader, plan, strength, arguments.trained, arguments.out, arguments.remedies
    )
    for who, found in report["methods"].items():
        for name, row in found.items():
            shown = {k: v for k, v in row.items() if not isinstance(v, (list, dict))}
            print(f"{who}, {name}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
    return report


def judge_inpainting(arguments: argparse.Namespace) -> dict:
    from evaluate import artists, inpaint, printing

    painter, reader = open_all(arguments)
    plan = inpaint.QUICK if arguments.quick else inpaint.Plan()
    named = ("pictures", "gallery")
    sizes = {name: value for name in named if (value := getattr(arguments, name)) is not None}
    plan = dataclasses.replace(plan, seed=arguments.seed, **sizes)
    names = arguments.domains or artists.domains()
    strength = (arguments.strengths or [1.0])[0]
    report = inpaint.run(painter, reader, plan, names, strength, arguments.out)
    print("\n".join(printing.inpaint_lines(report)))
    return report


def watch_attention(arguments: argparse.Namespace) -> dict:
    from evaluate import artists, attention

    painter = painter_of(arguments)
    names = arguments.domains or artists.domains()
    out = arguments.out or pack.ROOT / ".local" / "eval"
    return attention.run(painter, names, arguments.seed, out)


MODES = {
    "inpaint": judge_inpainting,
    "multi": judge_crowds,
    "base": judge_base,
    "attention": watch_attention,
    "full": judge_methods,
    "quick": judge_methods,
}


def command(words: list[str]) -> str:
    """What was asked for, without the places that change no figure."""
    from evaluate.printing import without

    return shlex.join(["dev.py", "eval", *without({"--json", "--out", "--keep"}, words)])


def main() -> int:
    arguments = parser().parse_args()
    if arguments.plots:
        from evaluate import plots

        return plots.main(arguments.plots, arguments.out)
    if arguments.docs:
        from evaluate import pages

        return pages.main(arguments.docs)
    if arguments.page:
        from evaluate import whole_page

        return whole_page.run(arguments.trained)
    from evaluate import printing

    start()
    mode = next((name for name in MODES if getattr(arguments, name)), "quick")
    started = time.monotonic()
    report = {
        "mode": mode,
        "command": command(sys.argv[1:]),
        **MODES[mode](arguments),
        "seconds": round(time.monotonic() - started, 1),
    }
    printing.keep(report, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
