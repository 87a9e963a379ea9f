"""A ruler for monsters: a small network that reads identity and what captions name off a picture.

It learns from the folder of draw.py, is tested on held-out monsters, and only scores: no encoder
is trained against it. A stopped run goes on.

    python docs/examples/monsters/ruler.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from monsters import ATTRIBUTES, MOODS, Monster, Picture, draw, drawing, monsters, scenes, styles
from stages.base import pixels
from stages.common import STATE, core, log, threads
from stages.ruler import guesses, jitter, summed_loss

FILE = Path(__file__).with_name("ruler.safetensors")
FOLDER = STATE / "monsters"
MISSING = core("training.miniature.attributes").MISSING
IDENTITY = {f"monster.{name}": tuple(values) for name, values in ATTRIBUTES.items()}
PROMPT = {
    "monster:mood": tuple(MOODS),
    "scene": tuple(drawing.SCENES),
    "style": tuple(styles.STYLES),
    "place": tuple(scenes.PLACES),
}
HEADS = {name: len(values) for name, values in {**IDENTITY, **PROMPT}.items()}


class MonsterRuler(core("evaluation.ruler").Ruler):
    """The miniature's ruler with fewer and smaller layers: 0.6 M parameters."""

    def __init__(self, accuracy: dict[str, float] | None = None):
        super().__init__(HEADS, accuracy)
        block = core("evaluation.ruler").ResidualBlock
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 7, 4, 3, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            block(32, 32, 1),
            block(32, 64, 2),
            block(64, 96, 2),
            nn.Conv2d(96, 16, 1),
            nn.Flatten(),
            nn.Linear(16 * 8 * 8, core("evaluation.ruler").FEATURES),
            nn.ReLU(),
        )


def about(who: Monster, mood: str, scene: str, style: str, place: str) -> dict[str, int]:
    """Class by head; MISSING where the picture does not show it, as in the miniature's labels."""
    found = {
        "monster:mood": PROMPT["monster:mood"].index(mood),
        "scene": PROMPT["scene"].index(scene),
        "style": PROMPT["style"].index(style),
        "place": PROMPT["place"].index(place),
        **dict(zip(IDENTITY, who.values, strict=True)),
    }
    if style in styles.COLOURLESS:
        found.update(dict.fromkeys(IDENTITY, MISSING))
    if style == "pixel art" or place == "far away":
        found["monster:mood"] = MISSING
    return found


def as_labels(rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
    """int64 (n,) by head"""
    return {head: torch.tensor([row[head] for row in rows]) for head in HEADS}


def labels_of(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    return as_labels([about(p.who, p.mood, p.scene, p.style, p.place) for p in pictures])


def asked_for(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where a caption names what a prompt head reads, and the picture shows it: bool (n,)."""
    found = {}
    for head, values in PROMPT.items():
        named, label = torch.tensor([bool(value) for value in values]), labels[head]
        found[head] = (label != MISSING) & named[label.clamp_min(0)]
    return found


def read_folder(folder: Path) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Pictures (n, 128, 128, 3) uint8 of a folder of draw.py, and their labels."""
    captions = sorted(folder.glob("monster-*/*.txt"))
    if not captions:
        raise SystemExit(f"{folder} has no monsters; draw them: docs/examples/monsters/draw.py.")
    images, rows = [], []
    for path in captions:
        with Image.open(path.with_suffix(".png")) as image:
            images.append(np.asarray(image.convert("RGB")))
        who = Monster(tuple(map(int, path.parent.name.split("-")[1:])))
        rows.append(about(who, *_named(path.read_text(encoding="utf-8").strip())))
    return np.stack(images), as_labels(rows)


def _named(caption: str) -> tuple[str, str, str, str]:
    """Mood, scene, style, place"""
    who, scene, *style = caption.split(", ")
    _, _, mood, *place = who.split(" ", 3)
    return mood, scene, "".join(style), "".join(place)


def held_out_pictures(count: int, purpose: str) -> list[Picture]:
    """A picture each of held-out monsters, style and place by lot."""
    return [draw(who, f"{purpose} {who.key}") for who in monsters(held_out=True)[:count]]


def open_ruler(path: Path = FILE) -> tuple[Any, dict[str, float]]:
    """The ruler of a file, and its accuracy by head on held-out monsters."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(str(path), "pt") as file:
        accuracy = json.loads((file.metadata() or {})["accuracy"])
    ruler = MonsterRuler(accuracy)
    ruler.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(str(path)).items()}
    )
    return ruler.eval(), accuracy


def train(pictures: Path, folder: Path, schedule: Any, batch: int) -> MonsterRuler:
    """Trains on a folder of draw.py; the state lies in `folder`."""
    images, labels = read_folder(pictures)
    torch.manual_seed(2)
    ruler = MonsterRuler().to(memory_format=torch.channels_last)
    log(f"{sum(p.numel() for p in ruler.parameters()) / 1e6:.2f} M weights, {len(images)} pictures")

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(0, len(images), (batch,), generator=generator)
        x = jitter(pixels(images[index.numpy()]), generator)
        logits = ruler(x.contiguous(memory_format=torch.channels_last))
        return summed_loss(logits, {name: v[index] for name, v in labels.items()}, MISSING)

    core("training.loop").train(ruler, loss, schedule, folder, log)
    return ruler


def save(ruler: MonsterRuler, path: Path, held_out: int) -> dict[str, float]:
    """Writes the ruler in fp16 with its accuracy on held-out monsters, which it returns."""
    from safetensors.torch import save_file

    unseen = held_out_pictures(held_out, "ruler")
    truth = labels_of(unseen)
    read = guesses(ruler, np.stack([np.asarray(picture.image) for picture in unseen]))
    scores = core("evaluation.answers").accuracies(read, truth, 3)
    halves = {name: tensor.half().contiguous() for name, tensor in ruler.state_dict().items()}
    save_file(halves, str(path), metadata={"accuracy": json.dumps(scores)})
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=FOLDER / "pictures")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=400, help="monsters it is tested on")
    words = parser.parse_args()
    torch.set_num_threads(threads())
    schedule = core("training.loop").Schedule(
        steps=words.steps, rate=3e-3, weight_decay=0.05, save_seconds=60
    )
    ruler = train(words.pictures, FOLDER / "ruler", schedule, words.batch)
    log(f"accuracy on held-out monsters: {save(ruler, words.out, words.held_out)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
