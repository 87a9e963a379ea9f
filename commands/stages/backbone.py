"""Trains the miniature's image backbone: a small CLIP vision tower, on training identities only."""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

from . import shipped
from .base import patch_code, pixels, take_shipped_code
from .common import STATE, core, device, log
from .data import held_out
from .reading import likeliest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    shipped.add_argument(parser)


def shift(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 4 px, with the edge repeated; the drawings themselves vary in pose."""
    padded = F.pad(x, (4, 4, 4, 4), mode="replicate")
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    return padded[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def build(seed: int, patch_dim: int):
    torch.manual_seed(seed)
    config = core("training.miniature.config").VISION
    heads = {n: c for n, c in core("training.miniature.attributes").heads().items() if "." in n}
    tower = core("training.miniature.clip_layout").VisionTower(config)
    lesson = core("training.miniature.backbone").Lesson
    return lesson(tower, config["hidden_size"], heads, patch_dim)


def references(images, records):
    """The pictures that can serve as references, and their labels by head."""
    dataset, attributes = core("training.miniature.dataset"), core("training.miniature.attributes")
    rows = [row for row, record in enumerate(records) if dataset.shows_well(record)]
    return images[rows], attributes.labels([records[row] for row in rows])


def run(arguments: argparse.Namespace) -> None:
    images, records = core("training.miniature.dataset").load(STATE / "data")
    if arguments.from_shipped:
        take_shipped_code()
    code = patch_code(images)
    images, labels = references(images, records)
    unseen, truth = references(*held_out())
    model = build(arguments.seed, 4 * code.basis.shape[1])
    if arguments.from_shipped:  # what reads the tower in the lesson does not ship, and starts anew
        model.tower.load_state_dict(shipped.vision())
    model.to(device())
    log(f"{sum(p.numel() for p in model.tower.parameters()) / 1e6:.2f} M parameters in the tower")

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(0, len(images), (arguments.batch,), generator=generator)
        x = shift(pixels(images[index.numpy()]), generator)
        patches = F.pixel_unshuffle(code.encode(x), 2).flatten(2).transpose(1, 2)
        lesson = {name: values[index].to(device()) for name, values in labels.items()}
        return model(x.to(device()), patches.to(device()), lesson)

    def report(step: int, averaged) -> None:
        accuracies = core("evaluation.answers").accuracies
        known = {name: values[:512] for name, values in labels.items()}
        for whose, shown, right in (("training", images[:512], known), ("held-out", unseen, truth)):
            read = likeliest(lambda x: model.logits(model.tower(x)), shown)
            log(f"read off pictures of {whose} subjects: {accuracies(read, right, 2)}")

    loop = core("training.loop")
    schedule = loop.Schedule(
        steps=arguments.steps,
        rate=arguments.rate,
        weight_decay=0.05,
        seed=arguments.seed,
        optimiser="muon",
    )
    loop.train(model, loss, schedule, STATE / "backbone", log, report)
