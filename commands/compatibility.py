"""Writes docs/compatibility.md out of the tests that carry the mark `compatibility`.

A line stands on the page only if every test of it ran and passed. Run it as
`python3 dev.py compatibility`; a test compares the page with the tests of its session.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
MARK = "compatibility"
WORKS = "works"
HEAD = """\
# At home in the graph

What stands beside Apply Nested Attention in a graph, and what comes of it. Every line is a test in
the real ComfyUI (through its own executor, but for the lines of `test_apply.py`), and the page is
written from those tests:

```
python3 dev.py compatibility
```

*works* means: with subjects that are switched off (strength 0, or not named in any prompt) the
image is bit for bit that of the same graph without this pack; with a subject that acts the image
changes, all its numbers are finite, and the pack's sites change the rows of the prompt that names
the subject and of no other. A compiled model, half precision and a second Apply are compared with
tolerance where rounding differs, and terms that other packs add are not told apart by rows.
"Before" and "after" say on which side of Apply the other node stands. The models of these tests are
small, with random weights and the layout of SD1.5; they show that nothing is lost or mixed up, not
how an image looks.
"""


@dataclass
class Line:
    """One line of the page, and the tests behind it."""

    section: str
    item: str
    result: str = WORKS
    note: str = ""
    tests: list[str] = field(default_factory=list)
    passed: bool = True

    def text(self) -> str:
        tests = ", ".join(f"`{test}`" for test in self.tests)
        item = f"{self.item} ({self.note})" if self.note else self.item
        return f"| {item} | {self.result} | {tests} |"


class Recorder:
    """A pytest plugin that keeps what became of the marked tests of a session."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}
        self.functions: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        mark = item.get_closest_marker(MARK)
        # Set-up and tear-down count as well: a test that was skipped did not run.
        if mark is not None and (report.when == "call" or not report.passed):
            self._keep(Line(*mark.args, **mark.kwargs), _name(item), report.passed)
        return report

    def _keep(self, line: Line, test: str, passed: bool) -> None:
        known = self._lines.setdefault((line.section, line.item), line)
        known.passed &= passed
        self.functions.add(test)
        if test not in known.tests:
            known.tests.append(test)

    def lines(self) -> list[Line]:
        """Those whose tests have all passed, by section and name."""
        return sorted(
            (line for line in self._lines.values() if line.passed),
            key=lambda line: (line.section, line.item.lower()),
        )


def _name(item: Any) -> str:
    return f"{item.path.name}::{item.originalname}"


def page(lines: list[Line]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *_tables(lines)])


def _tables(lines: list[Line]) -> Iterator[str]:
    section = None
    for line in lines:
        if line.section != section:
            if section is not None:
                yield ""
            section = line.section
            yield from (f"## {section}", "", "| beside Apply | result | tests |", "|---|---|---|")
        yield line.text()
    yield ""


def main(path: Path = PAGE) -> int:
    """Runs the tests and writes the page; on a failure it stays as it is."""
    recorder = Recorder()
    code = pytest.main([str(ROOT / "tests" / "host"), "-q", "-m", MARK], plugins=[recorder])
    if code:
        print(f"{path.name} stays as it is: not every test passed.")
        return int(code)
    path.write_text(page(recorder.lines()), encoding="utf-8")
    print(f"{path.name} is written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
