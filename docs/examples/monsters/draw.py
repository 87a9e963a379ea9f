"""Draws a folder of monsters to train on: a folder for each of them, captions and masks beside.

    python docs/examples/monsters/draw.py .local/train/monsters/pictures

The same command, the same pictures; a stopped run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from monsters import Monster, draw, monsters


def write(folder: Path, who: Monster, number: int) -> None:
    """One picture with its mask and, written last, its caption."""
    caption = folder / who.key / f"{number}.txt"
    if caption.exists():
        return
    picture = draw(who, f"train {who.key} {number}")
    caption.parent.mkdir(parents=True, exist_ok=True)
    picture.image.save(caption.with_suffix(".png"))
    picture.mask.save(caption.with_suffix(".mask.png"))
    caption.write_text(picture.prompt(["<subject>"]) + "\n", encoding="utf-8")


def write_all(
    folder: Path, count: int, each: int, told: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """`each` pictures of the first `count` training identities."""
    for done, who in enumerate(monsters(held_out=False)[:count], 1):
        for number in range(each):
            write(folder, who, number)
        if done % 100 == 0 or done == count:
            told(done, count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--monsters", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=5, help="of each monster")
    words = parser.parse_args()
    write_all(
        words.folder,
        words.monsters,
        words.pictures,
        lambda done, total: print(f"{done} of {total} monsters", flush=True),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
