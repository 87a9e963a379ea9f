"""`dev.py eval` end to end, on a handful of pictures in a few steps, from the shipped weights."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands.pack import ROOT, module

evaluation: Any = importlib.import_module("eval")
trained: Any = importlib.import_module("methods.trained")
SIZE = ["--pictures", "3", "--gallery", "4", "--subjects", "2", "--steps", "2"]
DOMAIN = ["--domains", "kitten", "--strengths", "0", "1"]


def evaluate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "commands" / "eval.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NESTED_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one baseline is "trained": its weights are as they were drawn."""
    folder = tmp_path_factory.mktemp("trained")
    checkpoint = module("nested_attn_core.checkpoint")
    info = checkpoint.read_info(ROOT / "models" / "kitten.safetensors")
    registry = module("nested_attn_core.evaluation.baselines.registry")
    plan = registry.Plan(info.config, info.norm, info.token_weight)
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(0)
        state = registry.build("decoupled", plan).state_dict()
    path = trained.path_of("kitten", "decoupled", folder)
    trained.save(path, "decoupled", plan, state, {"class_word": "kitten"})
    return folder


@pytest.fixture(scope="module")
def full(baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The report of a full run, and its folder."""
    folder = tmp_path_factory.mktemp("eval")
    path = folder / "full.json"
    places = "--json", path, "--out", folder, "--keep", folder / "kept", "--trained", baseline
    evaluate("--full", *SIZE, *DOMAIN, *places)
    return read(path), folder


def test_the_figures_have_the_agreed_keys(full):
    report, folder = full
    assert report["command"].startswith("dev.py eval --full --pictures 3")
    assert "--json" not in report["command"] and str(folder) not in report["command"]
    assert report["images_per_domain"] == 3 and set(report["domains"]) == {"kitten"}
    found = report["domains"]["kitten"]
    agreed = {"identity", "identity_ci", "retrieval_at_1", "gallery", "prompt", "prompt_base"}
    assert agreed | {"prompt_relative", "prompt_relative_ci"} <= set(found)
    assert found["gallery"] == 4
    assert found["identity_ci"][0] <= found["identity"] <= found["identity_ci"][1]
    assert set(report["methods"]) == {"nested", "decoupled"} == set(report["methods_by_domain"])
    for curve in report["methods"].values():
        assert [point["strength"] for point in curve] == [0, 1]
        assert all({"identity", "prompt_relative"} <= set(point) for point in curve)
    for name in ("kitten.jpg", "kitten-methods.jpg"):
        assert (folder / name).stat().st_size > 10_000


def test_nodes_and_batches_draw_the_same_and_prompts_without_the_subject_stay(full):
    found = full[0]["domains"]["kitten"]
    assert found["prior_change"] == 0
    assert 0 <= found["nodes_difference"] < 1e-4


def test_strength_zero_is_the_plain_class_word(full):
    """With the subject switched off no method can be told from the base."""
    report, _ = full
    without = report["domains"]["kitten"]["identity_without"]
    for off, on in report["methods"].values():
        assert off["prompt_relative"] == 1 and off["identity"] == without
        assert on["identity"] != without


def test_a_stopped_run_goes_on_to_the_same_figures(full, tmp_path):
    """One unit is lost, so that it is drawn again; the others are taken as they are."""
    report, folder = full
    kept = tmp_path / "kept"
    shutil.copytree(folder / "kept", kept)
    (lost,) = kept.glob("kitten-nested-1-*.json")
    lost.unlink()
    path = tmp_path / "again.json"
    alone = "--full", *SIZE, *DOMAIN, "--keep", kept, "--trained", tmp_path / "nothing"
    ended = evaluate(*alone, "--json", path)
    drawn = [line for line in ended.stdout.splitlines() if line.endswith("3 pictures")]
    assert len(drawn) == 1 and "nested at 1" in drawn[0]
    again = read(path)

    def timeless(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: timeless(value) for key, value in found.items() if key != "seconds"}
        return [timeless(value) for value in found] if isinstance(found, list) else found

    assert timeless(again["domains"]) == timeless(report["domains"])
    assert timeless(again["methods"]["nested"]) == timeless(report["methods"]["nested"])


def test_plots_and_page_come_out_of_the_report(full, tmp_path, monkeypatch):
    report, folder = full
    evaluate("--plots", folder / "full.json", "--out", tmp_path)
    for name in ("plane.png", "plane-kitten.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    pages: Any = importlib.import_module("evaluate.pages")
    page = tmp_path / "page.md"
    blocks = ("full domains", "methods", "frontier")
    page.write_text("\n".join(f"<!-- figures: {name} -->\nold\n<!-- end -->" for name in blocks))
    pages.main([folder / "full.json"], page)
    text = page.read_text()
    assert "old" not in text and "decoupled cross-attention" in text
    assert f"{report['domains']['kitten']['identity']:.2f}" in text
    with pytest.raises(SystemExit, match="attention"):
        pages.filled(text, "attention", ["new"])


def test_the_shipped_page_has_a_place_for_every_report():
    pages: Any = importlib.import_module("evaluate.pages")
    text = pages.PAGE.read_text(encoding="utf-8")
    for name in (
        "base",
        "told",
        "domains",
        "two hundred",
        "tokens",
        "full domains",
        "methods",
        "frontier",
        "attention",
        "multi",
        "inpaint",
    ):
        assert pages.filled(text, name, ["new"]) != text


def test_the_whole_page_is_measured_with_commands_that_exist(tmp_path):
    whole: Any = importlib.import_module("evaluate.whole_page")
    every = whole.MEASUREMENTS | whole.PARTS
    run = [name for phase in whole.PHASES for lane in phase for name in lane]
    assert sorted(run) == sorted(every)
    written = list(whole.MEASUREMENTS)
    # What is told has plain captions, too, and fewer: the base's own come after it.
    assert written.index("told") < written.index("base")
    for options in every.values():
        evaluation.parser().parse_args(options)
    page = (ROOT / "docs" / "miniature.md").read_text(encoding="utf-8")
    for files in whole.SHEETS.values():
        for file in files:
            assert (ROOT / "docs" / "miniature" / file).is_file()
            assert f"miniature/{file}" in page
    (tmp_path / "multi.json").touch()
    jobs = whole.jobs(("multi", "inpaint"), tmp_path, [])
    assert [job.label for job in jobs] == ["inpaint"]  # the other one is there already
    assert jobs[0].arguments[:2] == ["--inpaint", "--quick"]


def test_a_page_is_of_the_weights_that_it_measured(baseline, tmp_path):
    whole: Any = importlib.import_module("evaluate.whole_page")
    assert whole.print_of_weights(baseline) != whole.print_of_weights(tmp_path)


POINT = {
    "strength": 1.0,
    "identity": 0.5,
    "identity_ci": [0.4, 0.6],
    "retrieval_at_1": 0.25,
    "prompt_relative": 0.99,
    "prompt_relative_ci": [0.9, 1.0],
}
HEAD = {"mode": "full", "command": "dev.py eval --full", "seed": 0, "seconds": 1.0}


def test_numbers_of_tokens_stand_one_under_the_other():
    pages: Any = importlib.import_module("evaluate.pages")
    curves = {name: [POINT] for name in ("nested, shipped", "nested", "nested_4")}
    by_domain = {name: {"kitten": curve} for name, curve in curves.items()}
    report = {**HEAD, "methods": curves, "methods_domains": ["kitten"]}
    made = pages.blocks({**report, "methods_by_domain": by_domain})
    assert list(made) == ["tokens"]
    assert made["tokens"][2:] == [
        "| domain | nested tokens | strength 1 |",
        "| --- | --- | --- |",
        "| kitten | 4 | 0.50 (0.40 to 0.60), 25 %, 99 % |",
        "| kitten | 16 | 0.50 (0.40 to 0.60), 25 %, 99 % |",
    ]


def test_the_shipped_encoders_alone_stand_with_every_strength():
    pages: Any = importlib.import_module("evaluate.pages")
    found = {"curve": [POINT], "identity_real": 0.98, "retrieval_at_1_real": 0.9}
    made = pages.blocks({**HEAD, "methods": {"nested": [POINT]}, "domains": {"robot": found}})
    assert list(made) == ["two hundred"]
    assert made["two hundred"][4:] == [
        "| robot | 1 | 0.50 (0.40 to 0.60) [0.98] | 25 % [90 %] | 99 (90 to 100) % |"
    ]


def test_the_base_is_judged_beside_the_rulers_own_reading(tmp_path):
    path = tmp_path / "base.json"
    small = "--count", "1", "--gallery", "2", "--steps", "1"
    evaluate("--base", *small, "--json", path, "--out", tmp_path)
    report = read(path)
    domains = {"person", "kitten", "robot"}
    assert set(report["groups"]) == {*domains, "pairs", *(f"told {d}" for d in domains)}
    for row in (report["prompt"], *report["two_subjects"].values()):
        assert {"real", "coded", "base", "relative", "questions"} <= set(row)
    assert set(report["groups"]["told robot"]["identity"]) == {
        "robot.head",
        "robot.body",
        "robot.shape",
        "robot.top",
    }
    assert (tmp_path / "base-pairs.jpg").stat().st_size > 3_000
    pages: Any = importlib.import_module("evaluate.pages")
    told = pages.blocks(report)["told"]
    assert {row.split(" | ")[0].strip("| ") for row in told} >= {
        "robot.top",
        "**kitten**, identity",
    }


def test_a_subject_is_put_into_the_hole_and_the_photo_stays(tmp_path):
    path = tmp_path / "inpaint.json"
    small = "--inpaint", "--pictures", "2", "--gallery", "3", "--steps", "3", "--domains", "kitten"
    evaluate(*small, "--json", path, "--out", tmp_path)
    report = read(path)
    assert report["images_per_domain"] == 2
    found = report["domains"]["kitten"]
    assert found["outside_laid"] == 0
    # Through the autoencoder once, and not painted: as near to the photo as that allows.
    assert found["outside"] < 2 * found["outside_coded"] < found["outside_free"]
    assert found["identity"] > found["identity_without"] + 0.1
    assert found["identity_real"] > 0.7
    assert (tmp_path / "inpaint.jpg").stat().st_size > 10_000
    pages: Any = importlib.import_module("evaluate.pages")
    (lines,) = pages.blocks(report).values()
    assert f"**{100 * found['prompt']:.0f} %**" in lines[-1]


def test_attention_is_recorded_at_every_site(tmp_path):
    path = tmp_path / "attention.json"
    small = "--domains", "kitten", "--steps", "2"
    evaluate("--attention", *small, "--json", path, "--out", tmp_path)
    sites = read(path)["sites"]["kitten"]
    info = module("nested_attn_core.checkpoint").read_info(ROOT / "models" / "kitten.safetensors")
    assert set(sites) == {site.name for site in info.config.sites}
    assert {row["queries"] for row in sites.values()} == {16, 64, 256}
    assert all(0 <= row["query_dependence"] <= 1 for row in sites.values())
    assert all(0 < row["outer_share"] < 1 for row in sites.values())
    for name in ("attention-kitten.jpg", "attention-kitten-tokens.jpg"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_several_subjects_are_read_each_in_its_part(baseline, tmp_path):
    path = tmp_path / "multi.json"
    small = "--multi", "--pictures", "9", "--gallery", "3", "--steps", "1"
    evaluate(*small, "--trained", baseline, "--json", path, "--out", tmp_path)
    report = read(path)
    agreed = {"identity_relative", "leakage", "count_right", "prompt_relative"}
    for name in ("pairs", "triples"):
        assert agreed <= set(report[name])
        assert report["methods"]["nested"][name] == report[name]
        assert report["methods"]["base"][name]["prompt_relative"] == 1
        assert (tmp_path / f"multi-{name}.jpg").stat().st_size > 10_000
    assert sum(row["pictures"] for row in report["pairs"]["kinds"].values()) == 9
    # The baseline knows kittens only, so that it can be asked for two of them only.
    assert set(report["methods"]["decoupled, masked"]["pairs"]["kinds"]) == {"kitten + kitten"}
    assert "triples" not in report["methods"]["decoupled, masked"]


def test_a_report_names_what_was_asked_for_without_places():
    asked = ["--full", "--json", "a.json", "--domains", "person", "--out", "b", "--seed", "1"]
    assert evaluation.command(asked) == "dev.py eval --full --domains person --seed 1"


@pytest.mark.parametrize(("strengths", "headline"), [((0.5, 1.0, 1.4), 1.0), ((1.2, 1.4), 1.4)])
def test_without_the_trained_strength_the_largest_one_stands_for_a_domain(strengths, headline):
    domains: Any = importlib.import_module("evaluate.domains")
    assert domains.Plan(strengths=strengths).headline == headline
