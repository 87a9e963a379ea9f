"""The help page of each node: there, complete, and with messages that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from message_texts import ROOT, occurs

PAGES = ROOT / "web" / "docs"
SCHEMA: dict[str, Any] = json.loads((ROOT / "tests/host/schema.json").read_text("utf-8"))
TRANSLATED = sorted(PAGES.glob("*/*.md"))
ALL = [*sorted(PAGES.glob("*.md")), *TRANSLATED]
CODE = re.compile(r"`[^`\n]+`")


def node_of(page: Path) -> str:
    return page.stem if page.parent == PAGES else page.parent.name


def first_cells(text: str) -> list[str]:
    """The first cell of each row of each table."""
    return [
        row.split("|")[1].strip()
        for row in text.splitlines()
        if row.startswith("|") and not row.startswith("|--")
    ]


def quoted(cell: str) -> list[str]:
    return [code.strip("`") for code in CODE.findall(cell)]


def messages(text: str) -> list[str]:
    """What the last table quotes: the messages, by the form of all pages."""
    return [code for cell in first_cells(text.rsplit("\n## ", 1)[-1]) for code in quoted(cell)]


def test_every_node_has_a_page_and_every_page_a_node():
    assert {page.stem for page in PAGES.glob("*.md")} == set(SCHEMA)
    assert {node_of(page) for page in TRANSLATED} <= set(SCHEMA)


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(PAGES)))
def test_a_page_names_each_input_and_output(page):
    text = page.read_text(encoding="utf-8")
    named = {code for cell in first_cells(text) for code in quoted(cell)}
    node = SCHEMA[node_of(page)]
    assert {slot["name"] for slot in node["inputs"]} - named == set()
    assert {slot["shown"] for slot in node["outputs"]} - named == set()


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(PAGES)))
def test_a_page_shows_an_example_and_can_be_read_by_the_editor(page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ") and text.endswith("\n")
    assert "```" in text or "**Workflow" in text
    assert text.count("\n## ") >= 3
    prose = CODE.sub("", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert not re.search(r"<\w", prose), "the editor would take <name> for a tag"
    # The editor shows a page alone: a relative link would lead out of it.
    assert re.findall(r"\]\((?!https://)", prose) == []


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_the_messages_of_a_page_exist(page):
    told = messages(page.read_text(encoding="utf-8"))
    assert told
    assert [message for message in told if not occurs(message)] == []


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: str(page.relative_to(PAGES)))
def test_a_translated_page_quotes_the_same_messages(page):
    english = (PAGES / f"{node_of(page)}.md").read_text(encoding="utf-8")
    assert messages(page.read_text(encoding="utf-8")) == messages(english)


def test_a_message_that_is_not_there_is_seen():
    assert occurs("The prompt names ..., which no") is False  # two messages, joined by a name
    assert occurs("There is no encoder ...; put its file into models/")
    assert not occurs("There is no decoder ...")
    assert not occurs("...")
