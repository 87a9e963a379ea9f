"""`dev.py eval --page`: everything on docs/miniature.md measured anew and written into it.

On a CPU two measurements run at a time. What is done with the same weights is not done again, so
that the command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pack
from methods import trained
from stages import compare, lanes
from stages.common import MODELS, core, log

from . import pages, plots

FOLDER = pack.ROOT / ".local" / "eval" / "page"
EVERY = core("training.miniature.identities").DOMAINS
COMPARED = compare.DOMAINS
THREE = ["--pictures", "67", "--strengths", "0.5", "1", "1.4"]
PEERS = ["single_token", "appended_tokens", "decoupled", "nested_no_norm", "nested_key_too"]
TOKENS = list(pages.TOKENS.values())


def full(domains: Sequence[str], methods: Sequence[str], sizes: Sequence[str] = THREE) -> list[str]:
    return ["--full", "--domains", *domains, *sizes, "--methods", *methods]


# Options of each measurement by the name of its report, in the order in which they are written into
# the page: "told" also has plain captions, but fewer than "base".
MEASUREMENTS = {
    "told": ["--base", "--count", "40"],
    "base": ["--base", "--plain-only"],
    "quick": [],
    "two_hundred": full(
        EVERY,
        ["shipped"],
        ["--pictures", "200", "--strengths", "1", "1.2"],
    ),
    "methods": full(COMPARED, ["nested", *PEERS]),
    "tokens": full(COMPARED, TOKENS),
    "multi": ["--multi", "--pictures", "60"],
    "inpaint": ["--inpaint", "--quick"],
    "attention": ["--attention"],
}
# Parts of "methods" and "tokens", which read again what these have drawn.
PARTS = {f"all-{domain}": full((domain,), [*PEERS, *TOKENS]) for domain in COMPARED}
PHASES = (
    (
        ("all-person", "two_hundred"),
        ("all-kitten", "quick", "base", "told", "multi", "inpaint", "attention"),
    ),
    (("methods",), ("tokens",)),
)
# The sheets of docs/miniature by the measurement that draws them.
SHEETS = {
    "quick": [f"{domain}.jpg" for domain in EVERY],
    "methods": [f"{domain}-methods.jpg" for domain in COMPARED],
    "multi": ["multi-pairs.jpg"],
    "inpaint": ["inpaint.jpg"],
    "attention": [
        f"attention-{domain}{which}.jpg" for domain in EVERY for which in ("", "-tokens")
    ],
}


def run(methods: Path | None = None) -> int:
    """`methods`: another folder than .local/train/compare. Returns the exit code."""
    folder = FOLDER / print_of_weights(methods)
    elsewhere = ["--trained", str(methods)] if methods else []
    for phase in PHASES:
        failed = lanes.run_all([jobs(lane, folder, elsewhere) for lane in phase])
        if failed:
            log(f"Stopped at: {' and '.join(failed)}. Run the same command again to go on.")
            return 1
    pages.main([folder / f"{name}.json" for name in MEASUREMENTS])
    sheets = pages.PAGE.with_suffix("")
    for name, files in SHEETS.items():
        for file in files:
            shutil.copyfile(folder / name / file, sheets / file)
    return plots.main(folder / "methods.json", sheets)


def jobs(names: Sequence[str], folder: Path, elsewhere: Sequence[str]) -> list[lanes.Job]:
    """Those of the named measurements whose report is not there yet."""
    every = MEASUREMENTS | PARTS
    return [
        lanes.Job(
            name,
            "eval.py",
            [*every[name], *elsewhere, "--json", str(report), "--out", str(folder / name)],
        )
        for name in names
        if not (report := folder / f"{name}.json").is_file()
    ]


def print_of_weights(folder: Path | None) -> str:
    """Of all that is measured: the shipped weights, and the methods that were trained alike."""
    files = [
        *sorted(MODELS.glob("*.safetensors")),
        *sorted((folder or trained.FOLDER).glob(f"*/*/{trained.FILE}")),
    ]
    prints = [core("fingerprint").file_fingerprint(file) for file in files]
    return hashlib.sha256("".join(prints).encode()).hexdigest()[:12]
