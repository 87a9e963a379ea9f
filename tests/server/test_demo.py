"""The demo command: what it draws and reports, and that it leaves no server behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

import demo
import demo_sheet
from driving import new_server
from host_server import HostError, HostServer, node_of
from pack import ROOT

COLOURS = ("red", "lime", "blue", "black")


def results_of(row: demo.Row) -> list[demo.Result]:
    """A row as it comes back, with plain colours for pictures."""
    return [
        demo.Result(row, prompt, row.seed, Image.new("RGB", (128, 128), colour), ["bound"], 1.234)
        for prompt, colour in zip(row.prompts, COLOURS, strict=True)
    ]


@pytest.fixture
def pair() -> demo.Row:
    return demo.Row((demo.ANNA, demo.REX), ("one", "two", "three", "four"), 5)


def test_a_row_goes_through_the_server(server, monkeypatch):
    shipped = demo.workflow

    def quick(row):
        graph = shipped(row)
        steps = graph[node_of(graph, "KSampler")]["inputs"]
        assert steps["steps"] == 20
        steps["steps"] = 2
        return graph

    monkeypatch.setattr(demo, "workflow", quick)
    single = demo.Row((demo.BOLT,), ("a <bolt> with a visor, desert",), 5)
    both = demo.Row((demo.REX, demo.ANNA), ("a <rex> and a <anna> smiling, city",), 6)
    for row in (single, both):
        (done,) = demo.run_row(server, row)
        assert done.image.size == (128, 128)
        assert done.seed == row.seed and done.seconds > 0
        assert len(done.bindings) == len(row.subjects)
        for who, line in zip(row.subjects, sorted(done.bindings, reverse=True), strict=True):
            assert who.name in line


def test_a_graph_is_filled_with_the_subjects_of_the_row(pair):
    graph = demo.fill(pair, "a <anna> and a <rex>", 7)
    found = {}
    for node in demo.encode_nodes(graph):
        image, encoder = (graph[node["inputs"][key][0]]["inputs"] for key in ("image", "encoder"))
        found[node["inputs"]["name"]] = (image["picture"], encoder["encoder_name"])
    assert found == {
        "anna": ("person 1", "(shipped) person.safetensors"),
        "rex": ("kitten 1", "(shipped) kitten.safetensors"),
    }
    assert graph[node_of(graph, "KSampler")]["inputs"]["seed"] == 7
    assert demo.fill(pair, "x", 7) == demo.fill(pair, "x", 7)


def test_the_sheet_shows_references_left_of_results(pair):
    other = demo.Row((demo.BOLT, demo.ANNA), pair.prompts, 9)
    sheet = demo.draw(results_of(pair) + results_of(other))
    inner = demo_sheet.TILE - 8
    for number, row in enumerate((pair, other)):
        for column, who in enumerate(row.subjects):
            left, top = demo_sheet.corner(number, column)
            with Image.open(who.reference) as reference:
                expected = demo_sheet.tile(reference).crop((4, 4, 4 + inner, 4 + inner))
            assert sheet.crop((left + 4, top + 4, left + 4 + inner, top + 4 + inner)) == expected
        corners = [demo_sheet.corner(number, column) for column in range(2, 6)]
        seen = [sheet.getpixel((left + 9, top + 9)) for left, top in corners]
        assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]


def test_a_row_of_another_length_is_refused(pair):
    with pytest.raises(ValueError, match="2 references and 3 pictures, expected 6"):
        demo.draw(results_of(pair)[:3])


def test_the_report_has_the_fixed_keys(pair, tmp_path):
    results = results_of(pair)
    demo.write(tmp_path / "new", demo.draw(results), demo.report("0.3.75", results, 2.0))
    figures = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert figures["host"] == "0.3.75" and figures["seconds_total"] == 2.0
    assert [row["prompt"] for row in figures["rows"]] == list(pair.prompts)
    row = figures["rows"][0]
    assert row.keys() >= {"prompt", "seed", "subjects", "bindings", "seconds"}
    assert row["subjects"] == ["person/1", "kitten/1"]
    assert (tmp_path / "new" / "demo.png").stat().st_size > 0


def test_every_prompt_names_its_subjects_and_has_a_seed_of_its_own():
    for row in demo.ROWS:
        assert all(f"a <{who.name}>" in prompt for prompt in row.prompts for who in row.subjects)
        assert len(row.subjects) + len(row.prompts) == demo_sheet.COLUMNS
        assert all(who.reference.is_file() for who in row.subjects)
    seeds = [row.seed + n for row in demo.ROWS for n in range(len(row.prompts))]
    assert len(set(seeds)) == len(seeds)


def test_a_missing_reference_is_a_sentence():
    with pytest.raises(HostError, match="no reference picture"):
        _ = demo.Who("anna", "person", 999).reference


def test_a_host_that_does_not_start_is_told_with_its_log(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "main.py").write_text("raise SystemExit('no such luck')")
    server = HostServer(tmp_path / "broken", new_server(tmp_path).python, tmp_path / "base")
    with pytest.raises(HostError, match="ended by itself(.|\n)*no such luck"), server:
        pass


def servers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    return [child for child in children if any("main.py" in part for part in child.cmdline())]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can answer")
def test_an_ended_demo_takes_its_server_with_it(tmp_path):
    command = [sys.executable, str(ROOT / "commands" / "demo.py"), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while not (servers := servers_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and b"Interrupted." in errors
    assert not any(server.is_running() for server in servers)
