"""Runs the fuzz, load and kill tests in their long form, and keeps their figures.

`python3 dev.py test --long` runs them; `--json F` keeps the figures in a file, `--page` writes them
into docs/reliability.md, and `--from F...` writes it from files of earlier runs. Everything else
goes to pytest (`-k load`, `--hypothesis-seed=1`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
MARK = "reliability"
FIGURES = "NESTED_ATTENTION_FIGURES"
LONG_NAME = "NESTED_ATTENTION_LONG"
LONG = bool(os.environ.get(LONG_NAME))
# How many times the cases and runs of the normal tests: the long form's value is how many.
TIMES = int(os.environ.get(LONG_NAME) or 1)
LONG_TIMES = 20
SEED = 8
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def record(name: str, **figures: Any) -> None:
    """Keeps what a test counted, where a long run asked for it; a later one of a name adds."""
    path = os.environ.get(FIGURES)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: figures}) + "\n")


def collected(path: Path) -> dict[str, Any]:
    """What the tests of a run recorded; the last of each name."""
    found: dict[str, Any] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            found.update(json.loads(line))
    return found


def machine() -> str:
    """The machine in a line."""
    import torch

    return (
        f"{platform.system()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}"
    )


def block(runs: Sequence[dict[str, Any]]) -> str:
    """The figures of one or more runs as the page shows them."""
    lines = []
    for run in runs:
        outcome = "all passed" if run["passed"] else "not all passed"
        lines += [f"`{run['command']}`", ""]
        lines += [f"{run['date']}, {run['seconds']} s, {outcome}; {run['machine']}.", ""]
        for name, values in run["tests"].items():
            lines += [f"| {name} | |", "|---|---|"]
            lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in values.items()]
            lines.append("")
    return "\n".join(lines)


def written(page: str, runs: Sequence[dict[str, Any]]) -> str:
    """The page with its block of figures replaced."""
    if not _BLOCK.search(page):
        raise ValueError(f"{PAGE.name} has no block of figures")
    return _BLOCK.sub(lambda found: f"{found[1]}\n{block(runs)}{found[2]}", page)


def write_page(runs: Sequence[dict[str, Any]]) -> None:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), runs), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py test --long", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="F", help="keep the figures in a file")
    parser.add_argument(
        "--times", type=int, default=LONG_TIMES, metavar="N",
        help="how many times the cases and runs of the normal tests (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md")
    parser.add_argument(
        "--from", dest="kept", nargs="+", type=Path, metavar="F",
        help="run nothing; write the page from figures that were kept",
    )  # fmt: skip
    wanted, rest = parser.parse_known_args(arguments)
    if wanted.kept:
        write_page([json.loads(path.read_text(encoding="utf-8")) for path in wanted.kept])
        return 0
    if not any(word.startswith("--hypothesis-seed") for word in rest):
        rest.append(f"--hypothesis-seed={SEED}")
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "figures"
        began = time.monotonic()
        environment = {**os.environ, FIGURES: str(kept), LONG_NAME: str(wanted.times)}
        code = subprocess.call(
            [sys.executable, "-m", "pytest", "-m", MARK, "-q", "--show-capture=no", *rest],
            cwd=ROOT,
            env=environment,
        )
        figures = {
            "command": " ".join(["python3 dev.py test --long", *arguments]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "seconds": round(time.monotonic() - began),
            "passed": code == 0,
            "tests": collected(kept),
        }
    print(json.dumps(figures, indent=2))
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if wanted.page and code == 0:
        write_page([figures])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
