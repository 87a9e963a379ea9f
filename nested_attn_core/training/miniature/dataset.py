"""Builds the miniature's training pictures as shards on disk; the same plan, the same pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .identities import DOMAINS, Identity, identities
from .scenes import IMAGE_SIZE, render

SHARD = 1000


@dataclass(frozen=True)
class Plan:
    """What to draw: identities and pictures a domain, and pictures of two domains together."""

    identities: int = 2000
    pictures: int = 8000
    pairs: int = 12000
    held_out: bool = False

    def jobs(self) -> list[tuple[tuple[Identity, ...], str]]:
        side = "held" if self.held_out else "train"
        pools = {d: identities(d, self.held_out)[: self.identities] for d in DOMAINS}
        jobs: list[tuple[tuple[Identity, ...], str]] = []
        for domain, pool in pools.items():
            for number in range(self.pictures):
                jobs.append(((pool[number % len(pool)],), f"{side}|{domain}|{number}"))
        rng = random.Random(f"{side} pairs")
        for number in range(self.pairs):
            pair = [rng.choice(pools[domain]) for domain in rng.sample(DOMAINS, 2)]
            jobs.append((tuple(pair), f"{side}|pair|{number}"))
        random.Random(side).shuffle(jobs)
        return jobs


def build(
    folder: Path, plan: Plan, progress: Callable[[int, int], None], part: int = 0, of: int = 1
) -> None:
    """Draw the shards of `plan` that are missing in `folder`; a stopped run can go on."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = plan.jobs()
    shards = range(0, len(jobs), SHARD)
    for start in shards:
        path = folder / f"{start // SHARD:03d}.npz"
        if (start // SHARD) % of != part or path.exists():
            continue
        batch = jobs[start : start + SHARD]
        images = np.empty((len(batch), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        records = []
        for row, (subjects, seed) in enumerate(batch):
            picture = render(subjects, seed)
            images[row] = np.asarray(picture.image)
            records.append(
                {
                    "caption": picture.caption,
                    "scene": picture.scene,
                    "style": picture.style,
                    "place": picture.place,
                    "subjects": [[s.domain, *s.values] for s in subjects],
                    "words": picture.words,
                }
            )
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, images=images, records=np.array(json.dumps(records)))
        temporary.replace(path)
        progress(min(start + SHARD, len(jobs)), len(jobs))


def shows_well(record: dict) -> bool:
    """Whether a picture can serve as a reference: one subject, near, with its own colours."""
    near = len(record["subjects"]) == 1 and record["place"] != "far away"
    return near and not record["style"]


def shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, in order."""
    return sorted(path for path in folder.glob("[0-9]*.npz") if ".part" not in path.name)


def load(folder: Path) -> tuple[np.ndarray, list[dict]]:
    """All shards of a folder: images (n, size, size, 3) uint8 and one record a picture."""
    paths = shards(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no shards; draw them first: dev.py train data.")
    images, records = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            images.append(shard["images"])
            records += json.loads(str(shard["records"]))
    return np.concatenate(images), records
