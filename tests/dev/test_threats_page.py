"""docs/threats.md: every line names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
LINES = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")][1:]


def test_the_page_has_its_lines() -> None:
    assert len(LINES) >= 15 and all(len(line) == 3 for line in LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0].strip()[:40])
def test_every_threat_has_tests_that_exist(line: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line[2])
    assert named and line[2].count("::") == len(named)
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {found.name for found in tree.body if isinstance(found, ast.FunctionDef)}
