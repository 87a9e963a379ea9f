"""`dev.py eval` on a handful of subjects: its keys, and that a seed decides its numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands.pack import ROOT


def evaluate(folder: Path, *arguments: str) -> dict:
    path = folder / "figures.json"
    command = [sys.executable, str(ROOT / "commands" / "eval.py"), "--json", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--subjects", "2", "--out", str(folder), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("eval")
    return evaluate(folder), folder


def test_the_figures_have_the_agreed_keys(figures):
    report, folder = figures
    assert report["images_per_domain"] == 2 and set(report["domains"]) == {"person", "kitten"}
    for found in report["domains"].values():
        agreed = {"identity", "identity_ci", "retrieval_at_1", "gallery", "prompt", "prompt_base"}
        assert agreed | {"prompt_relative", "prompt_relative_ci"} <= set(found)
        low, high = found["identity_ci"]
        assert low <= found["identity"] <= high
    (curve,) = report["methods"].values()
    assert {"strength", "identity", "prompt_relative"} <= set(curve[0])
    assert (folder / "person.png").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_figures(figures, tmp_path):
    report, _ = figures
    assert evaluate(tmp_path)["domains"] == report["domains"]


def test_strength_zero_is_the_plain_class_word(tmp_path):
    """With the subject switched off the evaluation must see no better than the base alone."""
    for found in evaluate(tmp_path, "--strength", "0")["domains"].values():
        assert found["prompt"] == found["prompt_base"]
        assert found["retrieval_at_1"] == found["retrieval_at_1_without"]
