"""The command of the long tests: what it keeps, and the page that shows it."""

from __future__ import annotations

import json

import pytest

import dev
import reliability

FIGURES = {
    "command": "python3 dev.py test --long", "date": "2026-01-01", "machine": "a machine",
    "seconds": 9, "passed": True,
    "tests": {"fuzz": {"cases": 5, "growth_of_objects": 0}},
}  # fmt: skip


def test_figures_are_kept_only_where_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(reliability.FIGURES, raising=False)
    reliability.record("fuzz", cases=1)
    kept = tmp_path / "kept"
    monkeypatch.setenv(reliability.FIGURES, str(kept))
    reliability.record("fuzz", cases=1)
    reliability.record("load", runs=2)
    reliability.record("fuzz", cases=3)
    assert reliability.collected(kept) == {"fuzz": {"cases": 3}, "load": {"runs": 2}}
    assert reliability.collected(tmp_path / "none") == {}


def test_the_page_gets_its_block():
    page = reliability.PAGE.read_text(encoding="utf-8")
    new = reliability.written(page, [FIGURES])
    assert "| cases | 5 |" in new and "| growth of objects | 0 |" in new
    assert reliability.written(new, [FIGURES]) == new
    assert new.startswith(page.partition("<!-- figures -->")[0])
    twice = reliability.written(page, [FIGURES, {**FIGURES, "passed": False}])
    assert twice.count("| cases | 5 |") == 2 and "not all passed" in twice
    with pytest.raises(ValueError, match="no block"):
        reliability.written("# page", [FIGURES])


def test_a_run_that_fails_writes_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    seen = {}

    def call(command, cwd, env):
        seen.update(command=command, env=env)
        return 1

    monkeypatch.setattr(reliability.subprocess, "call", call)
    kept = tmp_path / "figures.json"
    assert reliability.main(["--json", str(kept), "--page", "-k", "load"]) == 1
    assert seen["command"][-3:] == ["-k", "load", "--hypothesis-seed=8"]
    assert seen["env"][reliability.LONG_NAME] == "20"
    figures = json.loads(kept.read_text())
    assert figures["passed"] is False and not reliability.PAGE.exists()


def test_long_goes_to_the_command(monkeypatch):
    ran = []
    monkeypatch.setattr(dev, "need", lambda *_: None)
    monkeypatch.setattr(dev, "run", lambda host, arguments, **_: ran.append(arguments) or 0)
    dev.test(dev.Host(dev.ROOT, dev.ROOT), ["--long", "--json", "f"])
    dev.test(dev.Host(dev.ROOT, dev.ROOT), ["-k", "x"])
    assert ran[0][0].endswith("reliability.py") and ran[0][1:] == ["--json", "f"]
    assert ran[1] == ["-m", "pytest", "-k", "x"]
