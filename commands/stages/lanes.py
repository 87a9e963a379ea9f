"""Commands side by side: those of one lane come one after another, lanes run at the same time.

On a CPU two trainings of one thread each get further than one after the other with both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pack

from .common import device, log, threads


@dataclass(frozen=True)
class Job:
    """A script in commands/ with its arguments; `label` stands before each line that it prints."""

    label: str
    script: str
    arguments: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(self.arguments) or self.label


Lane = Sequence[Job]


def run_all(lanes: Sequence[Lane]) -> list[str]:
    """Runs the lanes, on a CPU two at a time, else one after another; the jobs that failed."""
    at_once = 2 if device().type == "cpu" and threads() > 1 else 1
    side_by_side = min(at_once, len(lanes))
    shares = [threads() // side_by_side] * len(lanes)
    with ThreadPoolExecutor(side_by_side) as workers:
        return [str(job) for job in workers.map(run_lane, lanes, shares) if job]


def run_lane(lane: Lane, share: int) -> Job | None:
    """Runs the jobs with `share` threads each; the first that failed, or None."""
    environment = os.environ | {"NESTED_THREADS": str(share), "OMP_NUM_THREADS": str(share)}
    for job in lane:
        log(f"stage {job}")
        # A process of its own for each: what one held in memory is gone for the next.
        command = [sys.executable, str(pack.ROOT / "commands" / job.script), *job.arguments]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                print(f"[{job.label}] {line}", end="", flush=True)
        if child.returncode:
            return job
    return None
