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
from driving import new_server
from host_server import HostError, HostServer, node_of
from pack import ROOT


@pytest.fixture
def result() -> demo.Result:
    """A row as it comes back, with plain colours for pictures."""
    pictures = tuple(Image.new("RGB", (128, 128), colour) for colour in ("red", "lime", "blue"))
    paths = (demo.references("person")[0], demo.references("kitten")[0])
    return demo.Result(demo.ROWS[0], paths, pictures, ["anna", "rex"], 1.234)


def test_a_row_goes_through_the_server(server):
    graph = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    steps = graph[node_of(graph, "KSampler")]["inputs"]
    assert steps["steps"] == 20
    steps["steps"] = 2
    row = demo.Row("<anna> smiling in a red shirt and <rex>, desert", 5, 1, 1)
    done = demo.run_row(server, graph, row)
    assert len(done.images) == demo.SAMPLES
    assert {image.size for image in done.images} == {(128, 128)}
    assert len(done.bindings) == 2 and done.seconds > 0
    assert graph[node_of(graph, "NestedAttentionPrompt")]["inputs"]["text"] != row.prompt


def test_the_sheet_shows_references_left_of_results(result):
    sheet = demo.draw([result, result])
    with Image.open(result.references[0]) as reference:
        expected = demo.tile(reference)
    top = demo.HEAD + demo.LINE
    assert sheet.crop((demo.GAP, top, demo.GAP + demo.TILE, top + demo.TILE)) == expected
    pitch = demo.TILE + demo.GAP
    centres = [demo.GAP * 2 + column * pitch + demo.TILE // 2 for column in (2, 3, 4)]
    for row in (0, 1):
        middle = top + row * (demo.LINE + demo.TILE + 2 * demo.GAP) + demo.TILE // 2
        seen = [sheet.getpixel((x, middle)) for x in centres]
        assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_the_report_has_the_fixed_keys(result, tmp_path):
    demo.write(tmp_path / "new", demo.draw([result]), demo.report("0.3.75", [result], 2.0))
    figures = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert figures["host"] == "0.3.75" and figures["seconds_total"] == 2.0
    (row,) = figures["rows"]
    assert row.keys() >= {"prompt", "seed", "subjects", "bindings", "seconds"}
    assert row["subjects"] == [f"{p.parent.name}/{p.stem}" for p in result.references]
    assert (tmp_path / "new" / "demo.png").stat().st_size > 0


def test_every_row_names_both_subjects_and_has_a_seed_of_its_own():
    assert all("<anna>" in row.prompt and "<rex>" in row.prompt for row in demo.ROWS)
    assert len({row.seed for row in demo.ROWS}) == len(demo.ROWS) >= 5


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
