"""The messages on the troubleshooting page and in the README are those of the source."""

from __future__ import annotations

import re

import pytest

from commands.pack import host_path
from message_texts import ROOT, occurs

PAGE = ROOT / "docs" / "troubleshooting.md"
OTHERS = "Messages of ComfyUI itself"


def sections(text: str) -> dict[str, list[str]]:
    """The messages that each section quotes, in the first cell of its rows."""
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        if "| message begins |" in body:
            found[title] = re.findall(r"^\| `([^`\n]+)`", body, re.MULTILINE)
    return found


def test_each_message_of_the_page_occurs_in_the_source():
    found = sections(PAGE.read_text(encoding="utf-8"))
    assert len(found) >= 10 and all(found.values())
    ours = [text for title, texts in found.items() if title != OTHERS for text in texts]
    assert len(ours) > 70
    assert [text for text in ours if not occurs(text)] == []


def test_no_message_is_listed_twice():
    found = sections(PAGE.read_text(encoding="utf-8"))
    every = [text for texts in found.values() for text in texts]
    assert sorted(text for text in set(every) if every.count(text) > 1) == []


def test_messages_of_the_host_are_the_host_s():
    try:
        source = (host_path() / "execution.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        pytest.skip("no ComfyUI here")
    found = sections(PAGE.read_text(encoding="utf-8"))
    assert found[OTHERS] and all(f'"{text}' in source for text in found[OTHERS])
