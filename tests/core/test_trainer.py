"""The trainer: killed and resumed, on several processes, and stopped by what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nested_attn_core.training.checkpoints import load_state
from nested_attn_core.training.data.example import DataError
from nested_attn_core.training.states import StateFolder, TrainingStopped
from nested_attn_core.training.trainer import Listeners
from toy_training import ToyExamples, trainer

HERE = Path(__file__).parent
EXACT = ("parameters", "averaged", "optimiser", "rng", "sample", "loss")


def program(name: str, *words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / f"{name}.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def same(left, right) -> bool:
    """Equal to the last bit, all the way down."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def newest(folder: Path) -> dict:
    (_, path), *_ = StateFolder(folder).saved()
    state = load_state(path)
    assert state is not None
    return state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path):
    trainer(tmp_path / "whole", steps=120).run()
    killed = json.loads(finished(program("kill_training", tmp_path / "killed", 24)))
    assert sum(killed.values()) >= 20
    assert sum(count for point, count in killed.items() if point != "any time") >= 6, killed
    whole, resumed = newest(tmp_path / "whole"), newest(tmp_path / "killed")
    assert whole["step"] == resumed["step"] == 120
    for part in EXACT:
        assert same(whole[part], resumed[part]), part
    assert not list((tmp_path / "killed").glob("*.part"))


def test_stopped_and_resumed_with_muon_it_is_the_same_to_the_bit(tmp_path):
    trainer(tmp_path / "whole", optimiser="muon").run()
    stops = Listeners(on_step=lambda progress: progress.step < 20)
    trainer(tmp_path / "cut", optimiser="muon", listeners=stops).run()
    trainer(tmp_path / "cut", optimiser="muon").run()
    whole, resumed = newest(tmp_path / "whole"), newest(tmp_path / "cut")
    for part in EXACT:
        assert same(whole[part], resumed[part]), part


@pytest.mark.parametrize(("first", "then"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_state_of_another_optimiser(tmp_path, first, then):
    trainer(tmp_path, steps=3, optimiser=first).run()
    with pytest.raises(
        TrainingStopped, match=f"with other optimiser.name .{then}.; give run.folder"
    ):
        trainer(tmp_path, optimiser=then).run()


def test_two_processes_are_one(tmp_path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    common["ACCELERATE_USE_CPU"] = "true"
    paths = tmp_path / "two", tmp_path / "two.json"
    two = [
        program("toy_training", *paths, **common, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]
    losses: list[float] = []
    listeners = Listeners(on_step=lambda progress: losses.append(progress.last_loss))
    alone = trainer(None, steps=30, listeners=listeners).run()
    for process in two:
        finished(process)
    report = json.loads((tmp_path / "two.json").read_text())
    assert report["count"] == 2
    for kind in ("whole", "parts", "shards"):
        curve, weights = report[kind]["losses"], report[kind]["weights"]
        assert len(losses) == len(curve) == 30
        assert max(abs(a - b) for a, b in zip(losses, curve, strict=True)) < 1e-4
        for name, weight in alone.items():
            assert abs(float(weight.double().sum()) - weights[name]) < 1e-3, name
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    # Only the optimiser of sharded weights goes by their names.
    sharded = newest(tmp_path / "two" / "shards")["optimiser"]["state"]
    assert all(isinstance(name, str) for name in sharded)


def test_a_batch_in_parts_is_the_batch(tmp_path):
    curves = []
    for parts in (1, 4):
        curve: list[float] = []
        listeners = Listeners(
            on_step=lambda progress, curve=curve: curve.append(progress.last_loss)
        )
        trainer(None, steps=20, accumulate=parts, listeners=listeners).run()
        curves.append(curve)
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-5


def test_a_listener_stops_it_and_the_next_run_goes_on(tmp_path):
    whole = trainer(tmp_path / "whole").run()
    first = trainer(tmp_path / "cut", listeners=Listeners(on_step=lambda p: p.step != 8))
    first.run()
    assert first.done == 8
    second = trainer(tmp_path / "cut", threads=0)
    assert same(second.run(), whole)


def test_only_the_newest_states_are_kept(tmp_path):
    trainer(tmp_path, steps=12, keep=3).run()
    assert [step for step, _ in StateFolder(tmp_path).saved()] == [12, 9, 6]


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
    whole = trainer(tmp_path / "whole", steps=12).run()
    trainer(tmp_path / "cut", steps=12, listeners=Listeners(on_step=lambda p: p.step != 9)).run()
    (_, path), *_ = StateFolder(tmp_path / "cut").saved()
    path.write_bytes(path.read_bytes()[:1000])
    assert same(trainer(tmp_path / "cut", steps=12).run(), whole)


class Failing(ToyExamples):
    """Something is wrong from a step on."""

    def __init__(self, step: int, error: Exception | None):
        self.first, self.error = step * 8, error

    def batch(self, numbers):
        batch = super().batch(numbers)
        if numbers[0] >= self.first:
            if self.error is not None:
                raise self.error
            batch.latents.fill_(float("nan"))
        return batch


def test_a_loss_that_is_not_finite_stops_it(tmp_path):
    with pytest.raises(TrainingStopped, match=r"loss of step 8 is nan; The last state, of step 6"):
        trainer(tmp_path, examples=Failing(7, None)).run()
    assert newest(tmp_path)["step"] == 6
    assert all(torch.isfinite(p).all() for p in newest(tmp_path)["parameters"].values())
    assert same(trainer(tmp_path).run(), trainer(None).run())


@pytest.mark.parametrize(
    "error",
    [DataError("The shard cats-0007.tar has vanished."), OSError(errno.EIO, "Input/output error")],
)
def test_a_vanished_shard_stops_it(tmp_path, error):
    with pytest.raises(TrainingStopped, match="step 6, is kept") as found:
        trainer(tmp_path, examples=Failing(7, error)).run()
    assert "same command again" in str(found.value)
    assert newest(tmp_path)["step"] == 6
    assert same(trainer(tmp_path).run(), trainer(None).run())


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_a_disk_without_room_stops_it(tmp_path):
    import resource

    trainer(tmp_path, steps=60, listeners=Listeners(on_step=lambda p: p.step != 6)).run()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(TrainingStopped, match="of step 9 cannot be written") as found:
            trainer(tmp_path).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "The last state, of step 6, is kept" in str(found.value)
    assert not list(tmp_path.glob("*.part"))
    assert same(trainer(tmp_path).run(), trainer(None).run())


def test_a_full_disk_is_called_so(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingStopped, match=r"the disk is full\); No state was saved yet"):
        trainer(tmp_path).run()


@pytest.mark.parametrize("other", [{"seed": 4}, {"batch": 16}])
def test_a_state_of_another_training_is_refused(tmp_path, other):
    trainer(tmp_path, steps=6).run()
    with pytest.raises(TrainingStopped, match="another folder"):
        trainer(tmp_path, **other).run()


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="choose a multiple of 3"):
        trainer(None, batch=8, accumulate=3)


def test_samples_see_the_averaged_weights(tmp_path):
    seen = {}
    listeners = Listeners(on_sample=lambda step, weights: seen.update({step: weights}))
    final = trainer(tmp_path, steps=9, sample_every=3, listeners=listeners).run()
    assert sorted(seen) == [3, 6]
    assert seen[6].keys() == final.keys()
    assert not same(seen[3], seen[6])
