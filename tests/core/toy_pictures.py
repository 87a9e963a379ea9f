"""Small data sets on the disk, and encoders that need no model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from nested_attn_core.training.batches import Text
from nested_attn_core.training.config import TrainingConfig
from nested_attn_core.training.config_file import parse_config

CONFIG: dict[str, dict[str, Any]] = {
    "base": {"checkpoint": "miniature"},
    "backbone": {"clip_vision": "miniature"},
    "data": {"path": "pictures", "smallest": 16},
    "run": {"steps": 5, "batch": 4, "folder": "run"},
    "output": {"name": "cats", "domain": "cat"},
}


def config(folder: Path, **sections: dict[str, Any]) -> TrainingConfig:
    """Settings in a folder; sections add to CONFIG."""
    names = CONFIG.keys() | sections.keys()
    data = {name: {**CONFIG.get(name, {}), **sections.get(name, {})} for name in names}
    return parse_config(data).located(folder)


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A disc on a plain ground; another seed, another picture."""
    colours = [
        ((seed * 53 + i * 91) % 256, (seed * 97) % 256, (seed * 29 + i) % 256) for i in (0, 1)
    ]
    drawn = Image.new("RGB", size, colours[0])
    box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
    ImageDraw.Draw(drawn).ellipse(box, colours[1])
    return drawn


def disc_mask(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Where the disc is."""
    drawn = Image.new("L", size, 0)
    box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
    ImageDraw.Draw(drawn).ellipse(box, 255)
    return drawn


def encoded(drawn: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    drawn.save(stream, form)
    return stream.getvalue()


def write_folder(folder: Path, subjects: Mapping[str, int]) -> None:
    """Subfolders of pictures with captions; subjects: how many pictures each has."""
    seed = 0
    for name, count in subjects.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            picture(seed).save(folder / name / f"{number}.png")
            text = f"a photo of <{name}> on mat {seed}"
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")


def write_jsonl(path: Path, records: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


class ToyEncoders:
    """Plain functions of pixels and letters, which count their calls."""

    def __init__(self, version: str = "1"):
        self.keys = {"vae": f"vae {version}", "text": "text", "vision": "vision"}
        self.calls = {"latents": 0, "text": 0, "features": 0}

    def latents(self, images: Tensor) -> Tensor:
        self.calls["latents"] += len(images)
        return torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 8)

    def features(self, images: Tensor) -> Tensor:
        self.calls["features"] += len(images)
        cells = torch.nn.functional.adaptive_avg_pool2d(images.movedim(-1, 1), 4)
        return cells.flatten(2).mT

    def text(self, captions: Sequence[str]) -> list[Text]:
        self.calls["text"] += len(captions)
        return [self._text(caption.split()) for caption in captions]

    def _text(self, words: list[str]) -> Text:
        rows = torch.tensor([[float(len(word)), float(ord(word[0]))] for word in words])
        context = torch.zeros(-(-len(words) // 8) * 8, 2)
        context[: len(words)] = rows
        places = tuple(i for i, word in enumerate(words) if word == "<subject>")
        return Text(context, places, rows.mean(0))

    def conditions(self, pooled: Tensor | None, height: int, width: int) -> Mapping[str, Tensor]:
        return {} if pooled is None else {"y": torch.cat([pooled, pooled * 0 + height], 1)}
