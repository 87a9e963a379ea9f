"""Every link of every page in this repository leads somewhere. Needs no network."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from message_texts import ROOT

LEFT_OUT = {".local", ".git", "node_modules"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part in LEFT_OUT or part.startswith(".") for part in page.relative_to(ROOT).parts)
)
_CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", re.MULTILINE)
_TAG = re.compile(r"<(?:img|a|video|source)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)", re.IGNORECASE)
# Pages that the editor shows alone are held to another rule by test_help_pages.py.


def links(text: str) -> list[str]:
    """Where a page's links and pictures lead."""
    prose = _CODE.sub("", text)
    return [*_LINK.findall(prose), *_REFERENCE.findall(prose), *_TAG.findall(prose)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub (and the site) gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#{1,6}\s+(.+?)\s*#*$", re.sub(r"```.*?```", "", text, flags=re.S), re.M
    ):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        unique, number = slug, 0
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found | set(re.findall(r"<a\s+(?:id|name)=[\"']([^\"']+)", text))


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link of a page; None for a good one."""
    if re.match(r"https://", target):
        return None if re.match(r"https://[\w.-]+\.[a-z]{2,}(?:[/?#]|$)", target) else "no address"
    if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("/"):
        return "neither https nor a path from this page"
    path, _, anchor = target.partition("#")
    file = (page.parent / unquote(path)).resolve() if path else page
    if ROOT not in (file, *file.parents):
        return "outside of the repository"
    # Windows and macOS find a file of other case; a site does not.
    if not file.exists() or file.name not in {entry.name for entry in file.parent.iterdir()}:
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    found = {target: broken(page, target) for target in links(page.read_text(encoding="utf-8"))}
    assert {target: why for target, why in found.items() if why} == {}


def test_all_pages_are_looked_at():
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "docs/training.md", "models/README.md"} <= names
    assert len([target for page in PAGES for target in links(page.read_text("utf-8"))]) > 30


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("docs/no.md", "no such file"),
        ("docs/Training.md", "no such file"),
        ("docs/training.md#no-such-thing", "no such heading"),
        ("#no-such-thing", "no such heading"),
        ("../elsewhere.md", "outside of the repository"),
        ("/docs/training.md", "neither https nor a path from this page"),
        ("http://example.org", "neither https nor a path from this page"),
        ("https://nowhere", "no address"),
        ("docs/training.md#captions", None),
        ("https://arxiv.org/abs/2501.01407", None),
    ],
)
def test_what_is_broken_is_seen(target, why):
    assert broken(ROOT / "README.md", target) == why


def test_links_are_found_in_every_form_and_not_in_code():
    text = "[a](b.md) ![c [d]](e.png 'f')\n\n[g]: h.md\n<img src='i.png'> `[j](k.md)`"
    text += "\n```\n[l](m)\n```"
    assert links(text) == ["b.md", "e.png", "h.md", "i.png"]
    assert anchors("# A & B\n## `x` of *y*\n## A & B\n") == {"a--b", "x-of-y", "a--b-1"}
