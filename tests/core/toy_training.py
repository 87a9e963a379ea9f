"""A training so small that a step takes a millisecond, for tests of the loop around it.

Run as a program it is one process of such a training: FOLDER REPORT.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from nested_attn_core.training.batches import Batch
from nested_attn_core.training.methods import Injection, Method
from nested_attn_core.training.objective import NoiseSchedule, Noising, sample_generator
from nested_attn_core.training.optimisers import OptimiserSettings
from nested_attn_core.training.step import TrainingStep
from nested_attn_core.training.trainer import Listeners, RunSettings, Trainer
from nested_attn_core.training.workers import Workers


class Flow:
    """A rectified flow, described as the host describes one."""

    sigmas: torch.Tensor = torch.arange(1, 1001) / 1000

    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * sigma.view(-1, 1, 1, 1)

    def noise_scaling(self, sigma, noise, latent_image):
        sigma = sigma.view(-1, 1, 1, 1)
        return sigma * noise + (1 - sigma) * latent_image

    def timestep(self, sigma):
        return sigma * 1000


class ToyMethod(Method):
    """Reads 4 numbers from the features."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 4))

    def forward(self, features, context, positions, strength=1.0):
        return Injection(context, {"site": [self.layers(features.mean(1))]})


class ToyDenoiser:
    """Predicts what the method says, on every place."""

    schedule: NoiseSchedule = Flow()

    def __call__(self, noised, sigma, context, items, conditions):
        return noised + items["site"][0][..., None, None]


class ToyExamples:
    """Latents that follow from the features; a number gives the same sample everywhere."""

    def batch(self, numbers: Sequence[int]) -> Batch:
        features = torch.stack(
            [torch.randn(2, 3, generator=sample_generator(5, number, "data")) for number in numbers]
        )
        latents = features.mean(1) @ (torch.arange(12.0).view(3, 4) / 8)
        return Batch(
            latents=latents[..., None, None].expand(-1, -1, 2, 2).contiguous(),
            context=torch.zeros(len(numbers), 1, 1),
            positions=torch.zeros(len(numbers), 1, dtype=torch.long),
            features=features,
        )


def trainer(folder: Path | None, workers: Workers | None = None, **settings) -> Trainer:
    """A toy training of 60 steps that saves after every third one."""
    listeners = settings.pop("listeners", Listeners())
    examples = settings.pop("examples", ToyExamples())
    optimiser = settings.pop("optimiser", "adamw")
    options = {"steps": 60, "batch": 8, "save_every": 3, "seed": 3, **settings}
    return Trainer(
        TrainingStep(ToyMethod(), ToyDenoiser(), Noising("logit-normal", 0.5)),
        examples,
        RunSettings(folder=folder, **options),
        OptimiserSettings(optimiser, rate=1e-2, warmup=5),
        workers,
        listeners,
    )


def sharded_workers():
    """Processes that each keep a part of every weight, as FSDP does. Accelerate itself shards on
    accelerators only, so that its one call is made here."""
    from torch.distributed.fsdp import fully_shard

    from nested_attn_core.training.accelerated import AcceleratedWorkers

    class ShardedWorkers(AcceleratedWorkers):
        def prepare_model(self, step):
            return fully_shard(step, mesh=init_device_mesh("cpu", (self.count,)))

    workers = ShardedWorkers(cpu=True)
    workers._sharded = workers.reshapes = True
    return workers


def curve_of(folder: Path, workers: Workers, stop: int = 30, **settings) -> dict[str, Any]:
    """Losses and the weights' sums of 30 steps, with a new start after `stop` of them."""
    losses: list[float] = []
    weights = {}
    for last in dict.fromkeys((stop, 30)):

        def on_step(progress, last: int = last) -> bool:
            losses.append(progress.last_loss)
            return progress.step < last

        made = trainer(
            folder,
            workers,
            steps=30,
            save_every=10,
            listeners=Listeners(on_step=on_step),
            **settings,
        )
        weights = {name: float(weight.double().sum()) for name, weight in made.run().items()}
    return {"losses": losses, "weights": weights}


def main(folder: str, target: str) -> None:
    """Trains on as many processes as the environment tells: a batch as one, in two parts, and with
    weights in shards; the first process writes what came out."""
    from nested_attn_core.training.accelerated import AcceleratedWorkers, leave

    torch.set_num_threads(1)
    workers = AcceleratedWorkers(cpu=True)
    found = {
        "whole": curve_of(Path(folder, "whole"), workers),
        "parts": curve_of(Path(folder, "parts"), workers, accumulate=2),
        "shards": curve_of(Path(folder, "shards"), sharded_workers(), stop=13),
    }
    if workers.is_first:
        Path(target).write_text(json.dumps({"count": workers.count, **found}))
    workers.close()
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
