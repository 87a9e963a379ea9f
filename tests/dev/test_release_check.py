"""A tag is published only where version, changelog and metadata agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from release_check import ROOT, changelog, problems

GOOD = {
    "pyproject.toml": '[project]\nname = "x"\nversion = "0.2.0"\n'
    '[project.urls]\nRepository = "https://example.org/x"\n[tool.comfy]\nPublisherId = "x"\n',
    "CHANGELOG.md": "# Changelog\n\n## 0.2.0 (2026-01-01)\n\n- New.\n\n## 0.1.0\n\n- First.\n",
    "CITATION.cff": "title: x\nversion: 0.2.0\n",
}


def release(folder: Path, **changed: tuple[str, str]) -> Path:
    """A repository that is ready, but for one text in one file."""
    for name, text in GOOD.items():
        old, new = changed.get(name.split(".")[0], ("", ""))
        assert old in text
        (folder / name).write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return folder


def test_a_release_that_is_ready(tmp_path):
    assert problems("v0.2.0", release(tmp_path)) == []
    assert changelog(tmp_path)["0.2.0"] == "- New."


@pytest.mark.parametrize(
    ("tag", "changed", "told"),
    [
        ("v0.2.1", {}, "The tag is v0.2.1"),
        ("0.2.0", {}, "The tag is 0.2.0"),
        ("v0.2.0", {"CHANGELOG": ("- New.", "")}, "no section 0.2.0, or nothing in it"),
        ("v0.2.0", {"CHANGELOG": ("# Changelog\n", "## Unreleased\n\n- More.\n")}, "Unreleased"),
        ("v0.2.0", {"CITATION": ("0.2.0", "0.1.0")}, "CITATION.cff"),
        ("v0.2.0", {"pyproject": ("Repository", "Home")}, "no Repository"),
        ("v0.2.0", {"pyproject": ('PublisherId = "x"', "")}, "no PublisherId"),
        (
            "v0.2.0",
            {"pyproject": ('"x"\nversion', '"x"\ndependencies = ["torch"]\nversion')},
            "dep",
        ),
    ],
)
def test_what_is_not_ready_is_told(tmp_path, tag, changed, told):
    (only,) = problems(tag, release(tmp_path, **changed))
    assert told in only


def test_a_version_of_another_form(tmp_path):
    changed = {"pyproject": ("0.2.0", "0.2"), "CITATION": ("0.2.0", "0.2")}
    found = problems("v0.2", release(tmp_path, **changed))
    assert len(found) == 2 and "is not of the form 1.2.3" in found[0]


def test_this_repository_has_a_changelog_and_one_version():
    assert "0.1.0" in changelog(ROOT)
    assert not [text for text in problems("v0.1.0") if "CITATION" in text or "form" in text]
