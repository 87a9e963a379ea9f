"""The repository's paths, on systems that take upper and lower case as one, and on Windows."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])")
# Windows allows 260 characters, and a ComfyUI lies somewhere deep itself.
LONGEST = 120


@pytest.fixture(scope="module")
def entries() -> list[tuple[str, str]]:
    """(mode, path) of every tracked file."""
    done = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode or not done.stdout:
        pytest.skip("this is no checkout")
    lines = done.stdout.decode().split("\0")[:-1]
    return [(line.split()[0], line.split("\t", 1)[1]) for line in lines]


def parts(entries: list[tuple[str, str]]) -> set[str]:
    """All files, and all folders that lead to them."""
    files = {path for _, path in entries}
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    return files | (folders - {"."})


def test_no_two_paths_differ_by_case_alone(entries: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for path in sorted(parts(entries)):
        folded = unicodedata.normalize("NFKC", path).casefold()
        assert seen.setdefault(folded, path) == path


def test_every_path_exists_on_windows(entries: list[tuple[str, str]]) -> None:
    for path in parts(entries):
        assert len(path) <= LONGEST, path
        for name in path.split("/"):
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]', name), path
            assert not name.endswith((".", " ")), path
            assert not DEVICES.fullmatch(name.split(".")[0].strip().casefold()), path


def test_nothing_tracked_is_a_link(entries: list[tuple[str, str]]) -> None:
    assert [path for mode, path in entries if mode not in ("100644", "100755")] == []
