"""A whole training from a settings file, on the miniature: stopped, resumed, written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from .conftest import ROOT, pack

SETTINGS = """
[base]
checkpoint = "miniature"

[backbone]
clip_vision = "miniature"

[encoder]
tokens = 4
width = 64
depth = 1
heads = 2
ff_mult = 2

[data]
path = "pictures"
held_out = 0.2
smallest = 32
variants = 2

[objective]
sigma = "logit-normal"
drop_text = 0.3
drop_image = 0.3

[run]
steps = 4
batch = 2
accumulate = 2
checkpointing = true
save_every = 2
sample_every = 2
tensorboard = true

[samples]
prompts = ["a <subject>, beach"]
subjects = 1
steps = 2

[output]
name = "anyone"
domain = "person"
licence = "CC-BY-4.0"
"""


pytestmark = pytest.mark.usefixtures("gradients")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with settings and pictures of four persons, one each."""
    for source in sorted((ROOT / "models" / "references" / "person").glob("*.png"))[:4]:
        folder = tmp_path / "pictures" / source.stem
        folder.mkdir(parents=True)
        shutil.copy(source, folder / "front.png")
        (folder / "front.txt").write_text("a <person>, city")
    (tmp_path / "settings.toml").write_text(SETTINGS)
    return tmp_path


def session(place: Path, *overrides: str):
    path = place / "settings.toml"
    config = pack("nested_attn_core.training.config_file").load_config(path, overrides)
    return pack("nodes.host.session").Session(config, "dev.py train settings.toml", place, cpu=True)


def stopping_after(step: int, training, monkeypatch) -> None:
    """Asks the training to stop after a step, as a signal would."""
    reporter = pack("nested_attn_core.training.progress").Reporter
    real = reporter.step

    def told(self, progress) -> None:
        real(self, progress)
        if progress.step == step:
            training.stop()

    monkeypatch.setattr(reporter, "step", told)


def test_stopped_and_resumed_it_writes_what_an_unbroken_run_writes(place, monkeypatch):
    assert session(place, "run.folder=whole").run()
    first = session(place)
    with monkeypatch.context() as patched:
        stopping_after(3, first, patched)
        assert not first.run()
    folder = place / "runs" / "anyone"
    assert not (folder / "anyone.safetensors").exists()
    assert session(place).run()
    one = load_file(place / "whole" / "anyone.safetensors")
    other = load_file(folder / "anyone.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    info = pack("nested_attn_core.checkpoint").read_info(folder / "anyone.safetensors")
    assert (info.base_family, info.domain, info.steps) == ("miniature", "person", 4)
    assert info.trained_on == "3 pictures of 3 subjects"
    card = (folder / "anyone.md").read_text()
    assert "dev.py train settings.toml" in card and "CC-BY-4.0" in card
    assert str(place) not in card
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert settings["data"]["path"] == "pictures"
    for sheet in (folder / "anyone.png", folder / "sheets" / "step-00000002.png"):
        with Image.open(sheet) as picture:
            assert picture.size == (2 * 128, 128 + 14)
            assert len(set(picture.convert("L").tobytes())) > 20
    assert list((folder / "tensorboard").iterdir())

    (folder / "anyone.safetensors").unlink()
    session(place).export()
    exported = load_file(folder / "anyone.safetensors")
    assert all(torch.equal(one[name], exported[name]) for name in one)
    assert (folder / "anyone.md").read_text() == card, "the export knows what was measured"
    assert session(place).run()
    assert (folder / "anyone.md").read_text() == card, "and so does a run with nothing left to do"


def test_nothing_to_export_is_told(place):
    with pytest.raises(ValueError, match="train first"):
        session(place).export()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("base.checkpoint=nowhere.safetensors", 'no file "nowhere.safetensors"'),
        ("backbone.clip_vision=nowhere.safetensors", 'no file "nowhere.safetensors"'),
        ("base.checkpoint=settings.toml", "settings.toml is no checkpoint that ComfyUI can load"),
        ("backbone.clip_vision=settings.toml", "settings.toml is no CLIP Vision model"),
        ("method.name=decoupled", 'method.name is "decoupled", which has no encoder'),
        ("encoder.resume_from=kitten.safetensors", "whose sizes or sites are not those of this"),
        ("run.batch=3", "does not divide"),
        ("optimiser.name=adamw8bit", "pip install bitsandbytes"),
    ],
)
def test_what_cannot_be_trained_is_told(place, override, message):
    shutil.copy(ROOT / "models" / "kitten.safetensors", place)
    with pytest.raises(ValueError, match=message):
        session(place, override).run()


def test_a_disk_that_fills_up_at_the_end_loses_nothing(place, monkeypatch, caplog):
    """Neither a sheet on the way nor the encoder itself can be written."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched, caplog.at_level("WARNING", "nested_attention"):
        patched.setattr(pack("nodes.host.session"), "save_sheet", raising(full))
        with pytest.raises(ValueError, match=r"\(the disk is full\); the training is done"):
            session(place).run()
    assert "The sheet step-00000002.png cannot be written (the disk is full)." in caplog.text
    folder = place / "runs" / "anyone"
    assert not (folder / "anyone.md").exists()
    session(place).export()
    assert (folder / "anyone.md").exists() and (folder / "anyone.png").exists()


def raising(error: Exception):
    def call(*arguments, **options):
        raise error

    return call


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of an installed pack, from its folder."""
    return subprocess.run(
        [sys.executable, "-m", "commands.train", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_checks_and_explains(place):
    done = command(place, str(place / "nothing.toml"))
    assert done.returncode == 1
    assert "There is no file" in done.stderr and "Traceback" not in done.stderr
    (place / "pictures" / "1" / "front.txt").write_text("a beach")
    done = command(place, str(place / "settings.toml"), "--check")
    assert done.returncode == 1
    assert "3 of 4 pictures can be trained on" in done.stdout and "Traceback" not in done.stderr


def test_a_long_prompt_stands_above_its_own_column_only():
    grid = pack("nodes.host.sheets")._grid
    rows = [[Image.new("RGB", (64, 64), "red")] * 2]
    short, long = (grid(rows, ["reference", head], 128) for head in ("a <subject>", "word " * 12))
    assert short.size == (256, 128 + 14)
    assert long.height > short.height
    # The left column's head is a short one: below its line all is white.
    left = long.crop((0, 14, 128, long.height - 128))
    assert left.getextrema() == ((255, 255),) * 3
    assert long.crop((128, 14, 256, long.height - 128)).getextrema() != ((255, 255),) * 3
