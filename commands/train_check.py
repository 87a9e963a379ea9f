"""Looks through a training's whole data set, and says what is wrong in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pack

REPORT = "check.json"


def check(config: Any) -> int:
    """Prints a report and writes it, complete, to run.folder; 0 where nothing is wrong, else 1."""
    report = pack.module("nested_attn_core.training.data.check").check(config, tell)
    print(report.to_text())
    path = Path(config.run.folder, REPORT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    except OSError as error:
        print(f"The report cannot be written to {path} ({error.strerror}).", file=sys.stderr)
        return 1
    print(f"All of it: {path}")
    return report.exit_code


def tell(done: int, total: int) -> None:
    print(f"looked at {done} of {total} new pictures", flush=True)
