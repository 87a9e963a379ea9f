"""docs/compatibility.md says what the tests of this session say. This file runs after the rest."""

from __future__ import annotations

import re

import pytest

import compatibility


def test_the_page_is_what_the_tests_say(request: pytest.FixtureRequest) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    (recorder,) = [item for item in plugins if isinstance(item, compatibility.Recorder)]
    text = compatibility.PAGE.read_text(encoding="utf-8")
    for line in recorder.lines():
        listed = [row for row in text.splitlines() if row.startswith(line.text().split(" | ")[0])]
        assert listed, f"run `python3 dev.py compatibility`: {line.item}"
    # Of a part of the tests, no more than that can be said.
    if set(re.findall(r"`(\w+\.py::\w+)`", text)) <= recorder.functions:
        assert compatibility.page(recorder.lines()) == text, "run `python3 dev.py compatibility`"


def test_a_line_needs_all_its_tests() -> None:
    recorder = compatibility.Recorder()
    for name, passed in (("one", True), ("two", True), ("two", False)):
        recorder._keep(compatibility.Line("Section", name), f"test_x.py::test_{name}", passed)
    recorder._keep(compatibility.Line("Section", "One", "fails", "at times"), "test_x.py::c", True)
    text = compatibility.page(recorder.lines())
    assert "| one | works | `test_x.py::test_one` |" in text
    assert "| One (at times) | fails | `test_x.py::c` |" in text
    assert "two" not in text
