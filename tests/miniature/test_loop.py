"""The training loop: resumed equals uninterrupted, a bad loss keeps the last good state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from nested_attn_core.training.checkpoints import load_state, save_state
from nested_attn_core.training.course import Course
from nested_attn_core.training.loop import Schedule, train

SCHEDULE = Schedule(steps=20, rate=1e-2, warmup=3, seed=7, save_seconds=0.0)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
    )


def loss_of(net):
    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(16, 6, generator=generator)
        return (net(x) - x.sum(1, keepdim=True)).square().mean()

    return loss


def run(folder, optimiser: str, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    net = model()
    inner = loss_of(net)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        return inner(step, generator)

    schedule = replace(SCHEDULE, optimiser=optimiser)
    averaged = train(net, loss, schedule, folder, lambda line: None)
    return {**averaged, **{f"raw {k}": v for k, v in net.state_dict().items()}}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 7, 19])
def test_a_resumed_run_is_bit_equal(tmp_path, stop_at, optimiser):
    whole = run(tmp_path / "whole", optimiser)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", optimiser, stop_at)
    resumed = run(tmp_path / "cut", optimiser)
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_a_state_of_another_optimiser_goes_on_with_new_momentum(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "adamw", 7)
    net, said = model(), []
    schedule = replace(SCHEDULE, optimiser="muon")
    train(net, loss_of(net), schedule, tmp_path, said.append)
    assert "another optimiser" in " ".join(said)
    state = load_state(tmp_path / "state.pt")
    assert state is not None and state["optimiser_name"] == "muon"


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_loss_falls(tmp_path, optimiser):
    net = model()
    losses = []

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        value = loss_of(net)(step, generator)
        losses.append(float(value.detach()))
        return value

    schedule = Schedule(steps=150, rate=3e-2, warmup=5, optimiser=optimiser)
    train(net, loss, schedule, tmp_path, lambda line: None)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_a_loss_that_is_not_finite_keeps_the_last_state(tmp_path):
    net = model()
    inner = loss_of(net)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return inner(step, generator) * (float("nan") if step == 5 else 1.0)

    with pytest.raises(FloatingPointError, match="step 5"):
        train(net, loss, SCHEDULE, tmp_path, lambda line: None)
    state = load_state(tmp_path / "state.pt")
    assert state is not None and state["step"] == 5
    assert all(torch.isfinite(p).all() for p in state["parameters"].values())


def test_a_loss_that_goes_back_to_where_it_began_keeps_the_state_before(tmp_path):
    net = model()
    inner = loss_of(net)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return inner(step, generator) + (10.0 if step >= 120 else 0.0)

    schedule = Schedule(steps=400, rate=3e-2, warmup=5, save_seconds=0.0)
    with pytest.raises(FloatingPointError, match="is back at .* lower the rate"):
        train(net, loss, schedule, tmp_path, lambda line: None)
    state = load_state(tmp_path / "state.pt")
    # Smoothing hides the first steps of the way back.
    assert state is not None and 120 <= state["step"] < 135


@pytest.mark.parametrize(
    "losses, doubtful, lost",
    [
        ([1.2] + [0.4] * 400 + [1.3] * 200, True, True),
        ([1.2] + [0.4] * 400 + [1.3] * 20, True, False),
        ([1.2] + [0.4] * 400, False, False),
        # Begun with trained weights: there is hardly a way back, and the loss flutters.
        ([0.15] + [0.145] * 200 + [0.16] * 200, False, False),
        # A loss that falls to nearly nothing may double.
        ([1.0] + [1e-4] * 1000 + [1e-3] * 100, False, False),
        # A stage of another kind of batches, a third harder.
        ([1.0] + [0.3] * 400 + [0.4] * 400, False, False),
    ],
)
def test_what_counts_as_lost(losses, doubtful, lost):
    course = Course()
    for value in losses:
        course.add(value)
    assert (course.doubtful, course.lost) == (doubtful, lost)
    assert course.lowest <= course.smooth


def test_a_kill_while_saving_leaves_the_old_state(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    script = f"""
    import os, signal, torch
    from pathlib import Path
    from nested_attn_core.training import checkpoints
    real = torch.save
    def half(state, file):
        real(state, file); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
    torch.save = half
    checkpoints.save_state(Path({str(path)!r}), {{"step": 2, "x": torch.zeros(1000)}})
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=os.getcwd(), check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert load_state(path) == {"step": 1}
