"""Trains the miniature's image backbone: a small CLIP vision tower, on training identities only."""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

from .base import patch_code, pixels
from .common import STATE, core, device, log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)


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


def run(arguments: argparse.Namespace) -> None:
    attributes = core("training.miniature.attributes")
    dataset = core("training.miniature.dataset")
    images, records = dataset.load(STATE / "data")
    code = patch_code(images)
    single = [row for row, record in enumerate(records) if dataset.shows_well(record)]
    images, labels = images[single], attributes.labels([records[row] for row in single])
    model = build(arguments.seed, 4 * code.basis.shape[1]).to(device())
    log(f"{sum(p.numel() for p in model.tower.parameters()) / 1e6:.2f} M parameters in the tower")

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(0, len(images), (arguments.batch,), generator=generator)
        x = shift(pixels(images[index.numpy()]), generator)
        patches = F.pixel_unshuffle(code.encode(x), 2).flatten(2).transpose(1, 2)
        lesson = {name: values[index].to(device()) for name, values in labels.items()}
        return model(x.to(device()), patches.to(device()), lesson)

    def report(step: int, averaged) -> None:
        with torch.no_grad():
            logits = model.logits(model.tower(pixels(images[:512]).to(device())))
        guesses = {name: logits[name].argmax(-1).cpu() for name in model.names}
        truth = {name: values[:512] for name, values in labels.items()}
        line = core("evaluation.answers").accuracies(guesses, truth, 2)
        log(f"read off training pictures: {line}")

    core("training.loop").train(
        model,
        loss,
        core("training.loop").Schedule(
            steps=arguments.steps, rate=arguments.rate, seed=arguments.seed, weight_decay=0.05
        ),
        STATE / "backbone",
        log,
        report,
    )
