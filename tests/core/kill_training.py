"""Kills a toy training over and over, until it is through: FOLDER KILLS. Prints what it did.

A program of its own, because it forks: the children have torch in memory and begin at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from nested_attn_core.training import checkpoints
from nested_attn_core.training.trainer import Listeners, Progress
from toy_training import trainer

STEPS = 120
# Where in a save a child kills itself; the others are killed from outside, at any time.
POINTS = ("half of the file", "before the renaming", "after the renaming")


def kill_at(point: str, save: int) -> None:
    """Lets this process die at that point of its save number `save`."""
    seen = Counter[str]()
    real_save, real_replace = torch.save, Path.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def saving(state, file):
        seen["saves"] += 1
        real_save(state, file)
        if point == POINTS[0] and seen["saves"] == save:
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    def replacing(self, target):
        if point == POINTS[1] and seen["saves"] == save:
            die()
        result = real_replace(self, target)
        if point == POINTS[2] and seen["saves"] == save:
            die()
        return result

    checkpoints.torch.save = saving
    Path.replace = replacing  # type: ignore[method-assign]


def child(folder: Path, point: str, after: int, pipe: int) -> None:
    """Trains; tells the parent when `after` steps are done, or dies in a save by itself."""
    done = Counter[str]()

    def on_step(progress: Progress) -> None:
        done["steps"] += 1
        if not point and done["steps"] == after:
            os.write(pipe, b".")

    if point:
        kill_at(point, after)
    trainer(folder, steps=STEPS, listeners=Listeners(on_step=on_step)).run()


def run(folder: Path, rng: random.Random, point: str, quiet: bool = False) -> bool:
    """One child; whether it was killed."""
    after = 10**9 if quiet else rng.randint(1, 2 if point else 6)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(folder, point, after, writing)
        finally:
            os._exit(0)
    os.close(writing)
    if not point and not quiet and os.read(reading, 1):
        time.sleep(rng.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def main(folder: str, kills: str) -> None:
    torch.set_num_threads(1)
    # Loads what torch loads on first use, so that no child spends seconds on it.
    trainer(None, steps=1, threads=0).run()
    rng = random.Random(1)
    killed = Counter[str]()
    for _ in range(int(kills)):
        point = rng.choice(("", "", *POINTS))
        killed[point or "any time"] += run(Path(folder), rng, point)
    run(Path(folder), rng, "", quiet=True)
    sys.stdout.write(json.dumps(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
