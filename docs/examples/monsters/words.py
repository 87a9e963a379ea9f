"""What the base draws for words that could stand for a monster: a sheet to choose a class word by.

python docs/examples/monsters/words.py words.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import monsters  # isort: skip (it puts the commands on the path)

import eval as evaluation
from evaluate.sheets import Row, save, sheet
from evaluate.studios import open_painter
from methods.sampling import Settings

WORDS = ("monster", "person", "kitten", "robot")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--words", nargs="+", default=WORDS)
    arguments = parser.parse_args()
    evaluation.start()
    painter, seen = open_painter(None, Settings()), monsters.monsters(held_out=False)[:5]
    pictures = [monsters.draw(who, f"words {who.key}", "", "") for who in seen]
    rows = []
    for word in arguments.words:
        captions = [picture.prompt([word]) for picture in pictures]
        rows.append(Row(word, painter.plain(captions, range(len(captions)))))
    heads = [", ".join((picture.mood, picture.scene)) for picture in pictures]
    print(f"Written: {save(sheet(rows, heads), arguments.sheet)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
