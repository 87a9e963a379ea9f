"""`dev.py train compare`: baselines on the trainer of the encoders, stopped and gone on with."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from commands.pack import module
from stages.common import core

compare: Any = importlib.import_module("stages.compare")
trained: Any = importlib.import_module("methods.trained")


pytestmark = pytest.mark.usefixtures("gradients")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn pictures, and room for their features."""
    folder = tmp_path_factory.mktemp("compare")
    dataset = core("training.miniature.dataset")
    plan = dataset.Plan(identities=3, pictures=6, pairs=3)
    dataset.build(folder / "data", plan, lambda done, total: None)
    return folder


def comparison(pictures: Path, folder: Path, steps: int = 2) -> Any:
    settings = {
        "run.steps": steps,
        "run.batch": 2,
        "optimiser.warmup": 1,
        "encoder.width": 32,
        "encoder.depth": 1,
        "encoder.tokens": 4,
        "data.path": f"'{pictures / 'data'}'",
        "data.cache_folder": f"'{pictures / 'features'}'",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    return compare.Comparison("kitten", words, folder)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(trained.path_of("kitten", name, folder))


NAMES = ["nested", "single_token", "appended_tokens", "decoupled", "nested_key_too"]


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of method, trained for two steps."""
    folder = tmp_path_factory.mktemp("done")
    with torch.inference_mode(False), torch.enable_grad():
        comparison(pictures, folder).run(NAMES)
    return folder


def test_all_methods_train_and_load(done):
    found = trained.every("kitten", done)
    assert list(found) == NAMES
    for name, made in found.items():
        assert (made.name, made.class_word) == (name, "kitten")
        assert made.about["settings"]["run"]["steps"] == 2
        assert made.about["loss"] > 0
        assert not any(p.requires_grad for p in made.method.parameters())
        state = made.method.state_dict()
        fresh = untrained(name, made.about["settings"])
        # Well above what rounding to fp16 could do.
        learnt = [key for key in state if (state[key] - fresh[key]).abs().max() > 5e-4]
        assert len(learnt) > len(state) / 2


def untrained(name: str, settings: Any) -> dict[str, torch.Tensor]:
    """As a method starts; the projections come from the base."""
    host = module("nodes.host.sites")
    unet = module("nodes.host.miniature").load_miniature().model.model.diffusion_model
    sizes = {key: settings["encoder"][key] for key in ("tokens", "width", "depth", "heads")}
    config = core("encoder").EncoderConfig(
        feature_dim=192, token_dim=128, head_dim=32 // sizes["heads"], ff_mult=2,
        sites=host.discover_sites(unet), **sizes,
    )  # fmt: skip
    registry = core("evaluation.baselines.registry")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["run"]["seed"])
        plan = registry.Plan(config, site_weights=host.site_projections(unet))
        return registry.build(name, plan).state_dict()


def test_a_trained_method_draws(done):
    sampling: Any = importlib.import_module("methods.sampling")
    made = trained.every("kitten", done)["decoupled"]
    studio = sampling.Studio(*module("nodes.host.miniature").load_miniature())
    texts = studio.read(["a <anna>, city"], {"anna": made.class_word})
    features = studio.features(torch.rand(1, 128, 128, 3))
    cast = sampling.Cast(made.method, features, texts.positions["anna"])
    image = studio.draw(texts, [1], [cast], sampling.Settings(steps=1))
    assert torch.isfinite(image).all() and image.shape == (1, 128, 128, 3)


def test_what_is_done_stays(pictures, done, monkeypatch):
    monkeypatch.setattr(compare, "Session", None)
    before = trained.path_of("kitten", "nested", done).stat().st_mtime_ns
    comparison(pictures, done).run(NAMES)
    assert trained.path_of("kitten", "nested", done).stat().st_mtime_ns == before


def test_a_stopped_training_goes_on_to_the_same_weights(pictures, done, tmp_path, monkeypatch):
    stopping = comparison(pictures, tmp_path)
    progress = core("training.progress")
    monkeypatch.setattr(progress.Reporter, "step", lambda self, found: stopping.stop())
    with pytest.raises(SystemExit, match="run the same command again"):
        stopping.run(["decoupled", "nested"])
    assert not trained.every("kitten", tmp_path)
    monkeypatch.undo()
    comparison(pictures, tmp_path).run(["decoupled"])
    expected = weights(done, "decoupled")
    found = weights(tmp_path, "decoupled")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_other_settings_do_not_mix(pictures, done):
    with pytest.raises(SystemExit, match="other settings"):
        comparison(pictures, done, steps=3).run(["nested"])


def test_a_file_that_is_not_there_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="--domain kitten --methods nested_4"):
        trained.load(trained.path_of("kitten", "nested_4", tmp_path))


def test_the_command_line(capsys):
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    words = ["--methods", "nested,decoupled", "--steps", "5", "--set", "run.seed=1"]
    found = parser.parse_args(words)
    assert found.methods == ["nested", "decoupled"]
    assert compare.overrides(found) == ["run.steps=5", "run.seed=1"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--methods", "nested,many"])
    assert "many: unknown" in capsys.readouterr().err
