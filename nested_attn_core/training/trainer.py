"""The training loop: one process or many, resumable, with nothing drawn by lot outside a step.

What a step sees follows from the seed and the numbers of its samples alone. A resumed run therefore
repeats the uninterrupted one, and the number of processes does not matter.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NestedAttentionError
from .batches import Batch, Examples
from .loop import average_into
from .muon import layer_weights
from .objective import draw_noise, sample_generator
from .optimisers import OptimiserSettings, make_optimiser
from .states import StateFolder, TrainingStopped
from .step import TrainingStep, to_device
from .workers import Workers

log = logging.getLogger("nested_attention")


@dataclass(frozen=True)
class RunSettings:
    """How long, how large, how safe.

    batch       samples a step, over all processes and parts together
    accumulate  parts into which each process cuts its share
    ema         share of the average that a step keeps; 0 = the weights themselves
    folder      where states lie; None keeps none (a training inside a graph)
    """

    steps: int
    batch: int
    accumulate: int = 1
    ema: float = 0.99
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    sample_every: int = 0
    threads: int = 1
    folder: Path | None = None


@dataclass(frozen=True)
class Reached:
    """How far a training is: `step` steps are done, the smoothed `loss` (NaN before the first one)
    and the `seconds` of all runs."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Progress(Reached):
    """What is known after a step: also its own loss, and what the `rate` was."""

    last_loss: float
    rate: float


@dataclass(frozen=True)
class Listeners:
    """What happens beside the training, in the first process only.

    on_step    after every step; returns False to stop (the state is saved before)
    on_sample  every `sample_every` steps, with the averaged weights by name
    """

    on_start: Callable[[int], None] = lambda first: None
    on_step: Callable[[Progress], bool | None] = lambda progress: None
    on_sample: Callable[[int, dict[str, Tensor]], None] = lambda step, weights: None


class Trainer:
    """Trains the method of a TrainingStep on examples; `run` gives the averaged weights."""

    def __init__(
        self,
        step: TrainingStep,
        examples: Examples,
        settings: RunSettings,
        optimiser: OptimiserSettings,
        workers: Workers | None = None,
        listeners: Listeners = Listeners(),
    ):
        self.settings = settings
        self.listeners = listeners
        self.workers = workers or Workers()
        self._examples = examples
        self._rates = optimiser
        self._step = self.workers.prepare_model(step)
        named = [(n, p) for n, p in step.method.named_parameters() if p.requires_grad]
        if self.workers.reshapes:  # sharding puts other parameters in place of these
            named = [
                (n.split("method.", 1)[-1], p)
                for n, p in self._step.named_parameters()
                if p.requires_grad
            ]
        if not named:
            raise NestedAttentionError("The method has nothing that could be trained.")
        self._named = named
        if optimiser.name == "muon" and self.workers.reshapes:
            raise NestedAttentionError(
                "Muon needs whole matrices, and this training shards them (FSDP); set "
                "optimiser.name to adamw, or start it without FSDP."
            )
        self._optimiser = self.workers.prepare_optimiser(
            make_optimiser([p for _, p in named], optimiser, layer_weights(step.method))
        )
        self._averaged = {n: p.detach().clone() for n, p in named} if settings.ema else {}
        self._states = (
            None if settings.folder is None else StateFolder(settings.folder, settings.keep)
        )
        self._done, self._seconds, self._loss = 0, 0.0, math.nan
        self._check_shares()

    def run(self) -> dict[str, Tensor]:
        """Trains to the last step, from the last saved state if there is one.

        Returns the averaged weights by name, whole and on the CPU. Raises TrainingStopped, with the
        last good state kept, where the training cannot go on."""
        self._resume()
        if self.workers.is_first:
            self.listeners.on_start(self._done)
        started, before = time.monotonic(), self._seconds
        pieces = self._pieces()
        while self._done < self.settings.steps:
            last = self._one_step(pieces)
            self._done += 1
            self._loss = last if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * last
            self._seconds = before + time.monotonic() - started
            if self._after(last):
                break
        return self.averaged()

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self._done

    @property
    def reached(self) -> Reached:
        """How far the training is, whether in this run or in one before."""
        return Reached(self._done, self._loss, self._seconds)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name, whole and on the CPU."""
        source = self._averaged or dict(self._named)
        return {name: self.workers.whole(tensor) for name, tensor in source.items()}

    def _one_step(self, pieces: Iterator[tuple[Batch, Sequence[int]]]) -> float:
        settings = self.settings
        for group in self._optimiser.param_groups:
            group["lr"] = self._rates.rate_at(self._done, settings.steps)
        total = torch.zeros((), device=self.workers.device)
        for part in range(settings.accumulate):
            batch, numbers = next(pieces)
            with self.workers.gathering(self._step, part == settings.accumulate - 1):
                loss = self._losses(batch, numbers).mean() / settings.accumulate
                self.workers.backward(loss)
            total += loss.detach()
        value = float(self.workers.mean(total))
        if not math.isfinite(value):
            raise TrainingStopped(
                f"The loss of step {self._done + 1} is {value}; {self._kept()} Lower "
                "optimiser.rate or set run.precision to bf16, and run the same command again."
            )
        self.workers.clip([p for _, p in self._named], self._rates.clip, self._step)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        keep = min(settings.ema, (self._done + 1) / (self._done + 20))
        if settings.ema:
            average_into(self._averaged, self._named, keep)
        return value

    def _losses(self, batch: Batch, numbers: Sequence[int]) -> Tensor:
        generators = [sample_generator(self.settings.seed, number) for number in numbers]
        step = self.workers.unwrap(self._step)
        device = self.workers.device
        sigma = step.noising.draw(step.schedule, generators).to(device)
        noise = draw_noise(batch.latents.shape[1:], generators).to(device)
        return self._step(to_device(batch, device), sigma, noise)

    def _after(self, last: float) -> bool:
        """Tells, samples and saves; whether to stop here."""
        settings = self.settings
        wanted = None
        if self.workers.is_first:
            rate = self._rates.rate_at(self._done - 1, settings.steps)
            progress = Progress(self._done, self._loss, self._seconds, last, rate)
            wanted = self.listeners.on_step(progress)
        stop = self.workers.any(wanted is False)
        end = self._done == settings.steps
        if stop or end or self._done % settings.save_every == 0:
            self._save()
        if settings.sample_every and self._done % settings.sample_every == 0 and not end:
            weights = self.averaged()
            if self.workers.is_first:
                self.listeners.on_sample(self._done, weights)
            self.workers.wait()
        return stop

    def _pieces(self) -> Iterator[tuple[Batch, Sequence[int]]]:
        """This process's part of every batch from here on, read ahead by a thread."""
        numbered = self._numbers()
        if self.settings.threads == 0:
            for numbers in numbered:
                yield self._given(lambda: self._examples.batch(numbers)), numbers  # noqa: B023
            return
        with ThreadPoolExecutor(1, "examples") as pool:
            ahead: list[tuple[Future[Batch], Sequence[int]]] = []
            for numbers in numbered:
                ahead.append((pool.submit(self._examples.batch, numbers), numbers))
                if len(ahead) > 2:
                    future, first = ahead.pop(0)
                    yield self._given(future.result), first
            for future, first in ahead:
                yield self._given(future.result), first

    def _numbers(self) -> Iterator[Sequence[int]]:
        settings, workers = self.settings, self.workers
        size = settings.batch // (settings.accumulate * workers.count)
        for step in range(self._done, settings.steps):
            for part in range(settings.accumulate):
                start = step * settings.batch + (part * workers.count + workers.rank) * size
                yield range(start, start + size)

    def _given(self, read: Callable[[], Batch]) -> Batch:
        try:
            return read()
        except (NestedAttentionError, OSError) as error:
            raise TrainingStopped(
                f"{str(error).rstrip('.')}; {self._kept()} Put right what is missing and run the "
                "same command again to go on."
            ) from error

    def _resume(self) -> None:
        if self._states is None:
            return
        torch.manual_seed(self.settings.seed)  # for a method that draws by lot inside
        state = self._states.load()
        if state is None:
            return
        self._check_state(state)
        with torch.no_grad():
            for name, parameter in self._named:
                self.workers.fill(parameter, state["parameters"][name])
            for name, average in self._averaged.items():
                self.workers.fill(average, (state["averaged"] or state["parameters"])[name])
        self.workers.load_optimiser(self._step, self._optimiser, state["optimiser"])
        torch.set_rng_state(state["rng"])
        self._done, self._seconds, self._loss = state["step"], state["seconds"], state["loss"]
        log.info("Resumed at step %d after %.0f s.", self._done, self._seconds)

    def _save(self) -> None:
        if self._states is None:
            return
        whole = self.workers.whole
        state = {
            "parameters": {name: whole(p) for name, p in self._named},
            "averaged": {name: whole(t) for name, t in self._averaged.items()},
            "optimiser": self.workers.optimiser_state(self._step, self._optimiser),
            "optimiser_name": self._rates.name,
            "rng": torch.get_rng_state(),
            "sample": self._done * self.settings.batch,
            "seed": self.settings.seed,
            "batch": self.settings.batch,
            "seconds": self._seconds,
            "loss": self._loss,
        }
        failure = None
        if self.workers.is_first:
            try:
                self._states.save(self._done, state)
            except TrainingStopped as error:
                failure = error
        if self.workers.any(failure is not None):
            raise failure or TrainingStopped("The first process could not save its state.")

    def _check_state(self, state: dict[str, Any]) -> None:
        here = {name: tuple(p.shape) for name, p in self._named}
        there = {name: tuple(p.shape) for name, p in state["parameters"].items()}
        settings, name = self.settings, self._rates.name
        # Earlier states have no name, and are never Muon's.
        unnamed = "adamw" if name == "muon" else name
        for what, mine, saved in (
            ("sizes", here, there),
            (f"optimiser.name ({name})", name, state.get("optimiser_name", unnamed)),
            (f"run.seed ({settings.seed})", settings.seed, state["seed"]),
            (f"run.batch ({settings.batch})", settings.batch, state["batch"]),
        ):
            if mine != saved:
                raise TrainingStopped(
                    f"The state in {settings.folder} is of a training with other {what}; give "
                    "run.folder another folder, or delete that one to start over."
                )

    def _kept(self) -> str:
        return "Nothing is saved in this run." if self._states is None else self._states.kept()

    def _check_shares(self) -> None:
        settings, count = self.settings, self.workers.count
        if settings.batch % (settings.accumulate * count):
            raise NestedAttentionError(
                f"run.batch is {settings.batch}, which {count} processes with run.accumulate "
                f"{settings.accumulate} cannot share evenly; choose a multiple of "
                f"{settings.accumulate * count}."
            )


def trained_in(step: nn.Module) -> int:
    """Number of weights that train."""
    return sum(p.numel() for p in step.parameters() if p.requires_grad)
