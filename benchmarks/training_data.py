"""What loading and augmenting pictures costs beside a training step of the miniature.

Draws a small data set (or takes --data), trains a few steps as configs/miniature/DOMAIN.toml says,
and compares processor time: python benchmarks/training_data.py
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "commands")]

import pack  # noqa: E402

GOAL = 0.05


def core(name: str) -> Any:
    return pack.module(f"nested_attn_core.{name}")


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds on the clock, seconds of the processor (all threads)."""
    wall, busy = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - busy


def configured(domain: str, data: Path, folder: Path, *more: str) -> Any:
    return core("training.config_file").load_config(
        ROOT / "configs" / "miniature" / f"{domain}.toml",
        [
            f'data.path="{data.as_posix()}"',
            f'data.cache_folder="{(folder / "cache").as_posix()}"',
            f'run.folder="{(folder / "run").as_posix()}"',
            *more,
        ],
    )


class Steps:
    """Training steps one by one: what the trainer does, with a clock around each half."""

    def __init__(self, learning: Any):
        self.step = learning.step()
        self.parameters = list(self.step.method.parameters())
        self.optimiser = core("training.optimisers").make_optimiser(
            self.parameters, learning.optimiser_settings
        )
        self.objective = core("training.objective")
        self.to_device = core("training.step").to_device

    def run(self, batch: Any, numbers: range) -> None:
        import torch

        generators = [self.objective.sample_generator(0, number) for number in numbers]
        sigma = self.step.noising.draw(self.step.schedule, generators)
        noise = self.objective.draw_noise(batch.latents.shape[1:], generators)
        self.step(self.to_device(batch, torch.device("cpu")), sigma, noise).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def measure(config: Any, steps: int) -> None:
    import torch

    learning = pack.module("nodes.host.learning").Learning.load(config)
    frozen = learning.frozen
    source_of, data_of = core("training.data.source"), core("training.data.dataset")
    for what in ("listed for the first time", "listed again"):
        (source, _), wall, _ = timed(lambda: source_of.open_source(config))
        print(f"{len(source)} pictures {what}: {wall:.1f} s")
    data = data_of.TrainingData(source, frozen, config, frozen.native_size)
    _, wall, _ = timed(data.prepare)
    print(f"features computed and kept: {wall:.1f} s")
    data = data_of.TrainingData(source, frozen, config, frozen.native_size)
    _, wall, _ = timed(data.prepare)
    print(f"features found again: {wall:.1f} s")
    trained = Steps(learning)
    size = config.run.batch
    loads, computes = [], []
    for number in range(steps + 1):
        numbers = range(number * size, (number + 1) * size)
        batch, _, busy = timed(lambda numbers=numbers: data.batch(numbers))
        _, _, spent = timed(lambda batch=batch, numbers=numbers: trained.run(batch, numbers))
        if number:  # the first warms up
            loads.append(busy)
            computes.append(spent)
    load, compute = statistics.median(loads), statistics.median(computes)
    print(f"a step of {size} on {torch.get_num_threads()} threads, processor seconds:")
    print(f"  batch from kept features  {load:7.4f}  {load / (load + compute):6.2%}")
    afresh, _, busy = timed(lambda: augmented(data, size))
    print(f"  {afresh} references afresh  {busy:7.4f}  {busy / (busy + compute):6.2%}")
    print(f"  the step itself           {compute:7.4f}")
    within = load / (load + compute) < GOAL
    print(f"loading is {'under' if within else 'OVER'} {GOAL:.0%} of a step")


def augmented(data: Any, size: int) -> int:
    """Reads, decodes and augments as many references as a batch has, as without a cache."""
    request = data_of_request()
    rows = [row for rows in data.pairs.by_identity.values() for row in rows][:size]
    for row in rows:
        data._picture(request("vision", row, 0))
    return len(rows)


def data_of_request() -> Any:
    return core("training.data.dataset").Request


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of drawn shards")
    parser.add_argument("--domain", default="kitten")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    pack.start_host(cpu=True)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shards = arguments.data
        if shards is None:
            dataset = core("training.miniature.dataset")
            shards = folder / "data"
            dataset.build(shards, dataset.Plan(60, 240, 120), lambda done, total: None)
        measure(configured(arguments.domain, shards.resolve(), folder), arguments.steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
