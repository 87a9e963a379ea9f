"""Trains the ruler on the training identities and reports its accuracy on held-out ones."""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

from . import precision, shipped
from .base import pixels
from .common import MODELS, STATE, core, device, log
from .data import held_out
from .reading import likeliest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--batch", type=int, default=48)
    precision.add_argument(parser)
    shipped.add_argument(parser)


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 6 px, blur now and then, add noise: what is generated is softer."""
    dy, dx = torch.randint(-6, 7, (2,), generator=generator).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    if torch.rand((), generator=generator) < 0.3:
        small = F.interpolate(x, scale_factor=0.5, mode="area")
        x = F.interpolate(small, size=x.shape[-2:], mode="bilinear")
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def summed_loss(logits: dict, labels: dict, missing: int) -> torch.Tensor:
    """Cross-entropy of each head, averaged over the pictures that show what it reads, summed."""
    losses = []
    for name, values in labels.items():
        known = max(1, int((values != missing).sum()))
        options = {"ignore_index": missing, "reduction": "sum"}
        losses.append(F.cross_entropy(logits[name], values, **options) / known)
    return torch.stack(losses).sum()


def guesses(ruler, images) -> dict[str, torch.Tensor]:
    """The class that the ruler reads, by head: int64 (n,)."""
    return likeliest(ruler.eval(), images)


def run(arguments: argparse.Namespace) -> None:
    dataset, attributes = core("training.miniature.dataset"), core("training.miniature.attributes")
    images, records = dataset.load(STATE / "data")
    labels = attributes.labels(records)
    torch.manual_seed(arguments.seed)
    ruler = core("evaluation.ruler").Ruler(attributes.heads()).to(memory_format=torch.channels_last)
    if arguments.from_shipped:
        ruler.load_state_dict(shipped.ruler())
    ruler.to(device())
    products = precision.chosen(arguments)
    log(f"{sum(p.numel() for p in ruler.parameters()) / 1e6:.2f} M parameters, {products}")

    @precision.mixed(products)
    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(0, len(images), (arguments.batch,), generator=generator)
        x = jitter(pixels(images[index.numpy()]), generator).to(device())
        logits = ruler(x.contiguous(memory_format=torch.channels_last))
        chosen = {name: values[index].to(device()) for name, values in labels.items()}
        return summed_loss(logits, chosen, attributes.MISSING)

    core("training.loop").train(
        ruler,
        loss,
        core("training.loop").Schedule(
            steps=arguments.steps, rate=arguments.rate, seed=arguments.seed, weight_decay=0.05
        ),
        STATE / "ruler",
        log,
    )
    unseen, unseen_records = held_out()
    truth = attributes.labels(unseen_records)
    scores = core("evaluation.answers").accuracies(guesses(ruler, unseen), truth, 3)
    log(f"accuracy on held-out identities: {scores}")
    import json

    MODELS.mkdir(exist_ok=True)
    halves = {name: tensor.half().cpu().contiguous() for name, tensor in ruler.state_dict().items()}
    metadata = {"accuracy": json.dumps(scores)}
    core("whole_files").save_whole(MODELS / "ruler.safetensors", halves, metadata)
