"""Draws a folder of styles to train on: a folder for each, with pictures of many subjects in it.

    python docs/examples/styles/draw_styles.py .local/train/styles/pictures

The same command, the same pictures; a stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from styles import TRAINED, draw, subject


def write_all(folder: Path, each: int) -> None:
    """`each` pictures of every style, the subjects of all domains in turn; captions last."""
    for style in TRAINED:
        (folder / style).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            caption = folder / style / f"{number}.txt"
            if caption.exists():
                continue
            picture = draw(subject(number, held_out=False), style, f"train {number}")
            picture.image.save(caption.with_suffix(".png"))
            caption.write_text(picture.prompt("<subject>") + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=100, help="of each style")
    words = parser.parse_args()
    write_all(words.folder, words.pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
