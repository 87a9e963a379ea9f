"""The worked example of docs/training.md: a domain that nothing else here has ever seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import draw
import monsters
import ruler
from commands.pack import ROOT, module

EXAMPLE = ROOT / "docs" / "examples" / "monsters"
CONFIG = ROOT / "configs" / "miniature" / "monster.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of eight monsters."""
    path = tmp_path_factory.mktemp("monsters")
    draw.write_all(path, 8, 5)
    return path


def test_the_split_is_by_combination():
    seen, held = monsters.monsters(False), monsters.monsters(True)
    assert not {m.key for m in seen} & {m.key for m in held}
    assert 0.08 < len(held) / (len(seen) + len(held)) < 0.12
    assert all(m["colour"] != m["top colour"] for m in (*seen, *held))
    assert len(held) >= 100 and len(seen) >= 1000


def test_the_same_seed_draws_the_same_picture():
    who, other = monsters.monsters(True)[:2]
    first, again = (monsters.draw(who, "a", "", "") for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.prompt(["x"]) == again.prompt(["x"])
    assert first.image.tobytes() != monsters.draw(other, "a", "", "").image.tobytes()
    assert first.image.tobytes() != monsters.draw(who, "b", "", "").image.tobytes()
    mask = np.asarray(first.mask)
    assert 0.2 < (mask > 128).mean() < 0.8
    scene = np.asarray(monsters.drawing.draw_scene(first.scene, 128).convert("RGB"))
    outside = mask == 0
    assert (np.asarray(first.image)[outside] == scene[outside]).all()


def test_the_folder_can_be_trained_on(folder):
    load = module("nested_attn_core.training.config_file").load_config
    config = load(CONFIG, [f'data.path="{folder.as_posix()}"', f'data.cache_folder="{folder}/c"'])
    report = module("nested_attn_core.training.data.check").check(config)
    assert report.exit_code == 0, report.to_text()
    source, problems = module("nested_attn_core.training.data.source").open_source(config)
    assert len(source) == 40 and not problems
    for row in range(40):
        example = source[row]
        assert example.identity.startswith("monster-") and example.mask is not None
        assert "<subject>" in example.caption
        who = monsters.Monster(tuple(map(int, example.identity.split("-")[1:])))
        assert not who.held_out
    # No caption says what makes a monster itself.
    words = {word for row in range(40) for word in source[row].caption.split()}
    assert not words & {"monster", *monsters.COLOURS, "horns", "crown", "ears", "spikes"}
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*.png"))
    draw.write_all(folder, 8, 5)
    assert before == sorted(path.stat().st_mtime_ns for path in folder.rglob("*.png"))


def test_labels_are_read_from_names_and_captions(folder):
    images, labels = ruler.read_folder(folder)
    whos = monsters.monsters(False)[:8]
    pictures = {
        (who.key, number): monsters.draw(who, f"train {who.key} {number}")
        for who in whos
        for number in range(5)
    }
    ordered = [pictures[key] for key in sorted(pictures)]
    assert all((np.asarray(p.image) == i).all() for p, i in zip(ordered, images, strict=True))
    for head, values in ruler.labels_of(ordered).items():
        assert torch.equal(values, labels[head]), head
    asked = ruler.asked_for(labels)
    styled = torch.tensor([bool(picture.style) for picture in ordered])
    assert torch.equal(asked["style"], styled) and bool(asked["scene"].all())
    far = torch.tensor([p.place == "far away" or p.style == "pixel art" for p in ordered])
    assert not bool(asked["monster:mood"][far].any()) and bool(asked["monster:mood"][~far].all())


def test_a_ruler_learns_and_comes_back_from_its_file(folder, tmp_path):
    schedule = module("nested_attn_core.training.loop").Schedule(steps=30, rate=3e-3, warmup=5)
    with torch.inference_mode(False), torch.enable_grad():
        made = ruler.train(folder, tmp_path, schedule, batch=16)
    images, labels = ruler.read_folder(folder)
    read = ruler.guesses(made, images)
    shown = labels["scene"] != ruler.MISSING
    assert float((read["scene"] == labels["scene"])[shown].double().mean()) > 0.3  # chance: 0.13
    scores = ruler.save(made, tmp_path / "ruler.safetensors", 6)
    loaded, accuracy = ruler.open_ruler(tmp_path / "ruler.safetensors")
    assert accuracy == scores and scores.keys() == ruler.HEADS.keys()
    again = ruler.guesses(loaded, images)
    assert float((again["scene"] == read["scene"]).double().mean()) > 0.9


def test_figures_of_an_encoder(tmp_path):
    """With the kittens' encoder, which the nodes must draw as the batches do."""
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- figures: monsters -->\n<!-- end -->\nbelow\n")
    words = [
        ROOT / "models" / "kitten.safetensors",
        *("--pictures", "2", "--gallery", "3", "--subjects", "2", "--steps", "1"),
        *("--strengths", "1", "--keep", tmp_path / "kept", "--out", tmp_path, "--page", page),
        *("--json", tmp_path / "report.json"),
    ]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "measure.py"), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NESTED_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["domains"]["monster"]
    assert report["class_word"] == "kitten" and found["pictures"] == 2 and found["gallery"] == 3
    assert found["prior_change"] == 0 and found["nodes_difference"] < 1e-4
    assert found["identity_real"] > found["identity_without"]
    assert "| monster | 1 | **" in page.read_text() and page.read_text().endswith("below\n")
    assert str(tmp_path) not in report["command"]
    assert (tmp_path / "monster.jpg").stat().st_size > 5000
