"""One training loop for all that is trained here: seeded by step, resumable, weights averaged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoints import load_state, save_state
from .course import Course
from .muon import layer_weights
from .optimisers import OptimiserSettings, make_optimiser, rate_share


@dataclass(frozen=True)
class Schedule:
    """`optimiser` is adamw or muon; the rate rises over `warmup` steps, holds, and falls over the
    last part."""

    steps: int
    rate: float
    warmup: int = 100
    decay_share: float = 0.5
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    seed: int = 0
    optimiser: str = "adamw"
    save_seconds: float = 240.0

    def rate_at(self, step: int) -> float:
        return self.rate * rate_share(step, self.steps, self.warmup, self.decay_share)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step depends on seed and step alone, so a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**62)


def average_into(target: dict[str, Tensor], parameters: Iterable[tuple[str, Tensor]], keep: float):
    """Exponential moving average, in place."""
    with torch.no_grad():
        for name, parameter in parameters:
            target[name].lerp_(parameter, 1 - keep)


def train(
    module: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    schedule: Schedule,
    folder: Path,
    log: Callable[[str], None],
    on_save: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Train what requires gradients in `module`, on the device where it is; returns the averaged
    weights by name.

    loss_of(step, generator) gives the scalar loss of one batch. State is kept in folder/state.pt.
    Raises FloatingPointError, with the last good state kept, when the loss stops being finite or
    goes back towards where it began.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    settings = OptimiserSettings(
        schedule.optimiser, schedule.rate, weight_decay=schedule.weight_decay
    )
    optimiser = make_optimiser([p for _, p in named], settings, layer_weights(module))
    averaged = {name: p.detach().clone() for name, p in named}
    first, seconds, course, best = 0, 0.0, Course(), folder / "state.pt"
    state = load_state(best)
    if state is not None:
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(state["parameters"][name])
            for name, buffer in module.named_buffers():
                buffer.copy_(state["buffers"][name])
        if state.get("optimiser_name", "adamw") == schedule.optimiser:
            optimiser.load_state_dict(state["optimiser"])
        else:
            log("the state is of another optimiser; its momentum begins anew")
        averaged = {name: state["averaged"][name].to(p.device) for name, p in named}
        first, seconds = state["step"], state["seconds"]
        # Where a state has no course, it begins here.
        course = Course(**state.get("course", {}))
        log(f"resumed at step {first} after {seconds:.0f} s")

    def keep(step: int) -> None:
        content = {
            "parameters": {name: p.detach() for name, p in named},
            "buffers": dict(module.named_buffers()),
            "averaged": averaged,
            "optimiser": optimiser.state_dict(),
            "optimiser_name": schedule.optimiser,
            "step": step,
            "seconds": seconds,
            "loss": course.smooth,
            "course": asdict(course),
        }
        save_state(best, content)
        if on_save:
            on_save(step, averaged)

    started = saved = time.monotonic()
    before = seconds
    for step in range(first, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step)
        loss = loss_of(step, step_generator(schedule.seed, step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], schedule.clip)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss at step {step} is {value}; the last save is kept in {folder}: lower the "
                "rate and run the same command again."
            )
        course.add(value)
        if course.lost:
            raise FloatingPointError(
                f"The loss had fallen from {course.first:.3g} to {course.lowest:.3g} and is back "
                f"at {course.smooth:.3g} at step {step}; the last save before that is kept in "
                f"{folder}: lower the rate and run the same command again."
            )
        optimiser.step()
        average_into(averaged, named, min(schedule.average, (step + 1) / (step + 20)))
        now = time.monotonic()
        seconds = before + now - started
        if (step + 1) % 50 == 0:
            left = (schedule.steps - step - 1) * (now - started) / (step + 1 - first)
            log(
                f"step {step + 1}/{schedule.steps} loss {course.smooth:.4f}, "
                f"{seconds:.0f} s, {left:.0f} s left"
            )
        if now - saved > schedule.save_seconds and not course.doubtful:
            keep(step + 1)
            saved = now
    if first < schedule.steps:
        keep(schedule.steps)
    return averaged
