"""What a user gets from the registry: all that the nodes need, and not more."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from archive import MIB, ROOT, ArchiveError, pack, packed_files

in_clone = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not in a git clone"
)
# Of the zip, most of which is the miniature's weights.
LARGEST = 60 * MIB
LARGEST_PICTURE = 64 * 1024
ENDINGS = {".py", ".md", ".json", ".toml", ".txt", ".safetensors", ".png", ".jpg", ".webp", ""}
FOLDERS = {"docs", "locales", "models", "nested_attn_core", "nodes", "web", "workflows"}
FOLDERS |= {"example_workflows", "subgraphs"}
RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}


@pytest.fixture(scope="module")
def files() -> list[str]:
    return packed_files()


def reached() -> set[str]:
    """Every module of the pack that the door leads to, with imports inside functions."""
    seen: set[Path] = set()
    todo = [ROOT / "__init__.py"]
    while todo:
        file = todo.pop()
        if file not in seen and file.is_file():
            seen.add(file)
            todo += _imported(file)
    return {file.relative_to(ROOT).as_posix() for file in seen}


def _imported(file: Path) -> list[Path]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for module in (base, *(base / alias.name for alias in node.names)):
                found += [module.with_suffix(".py"), module / "__init__.py"]
            found += [folder / "__init__.py" for folder in base.parents if ROOT in folder.parents]
    return found


@in_clone
def test_every_module_that_can_be_imported_is_there(files):
    wanted = reached()
    assert len(wanted) > 60 and "nodes/host/patch.py" in wanted
    assert wanted - set(files) == set()


@in_clone
def test_what_belongs_to_the_nodes_is_there(files):
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        .stdout.strip()
        .splitlines()
    )
    for folder in ("locales/", "web/", "models/references/"):
        belonging = {name for name in tracked if name.startswith(folder)}
        assert belonging and belonging <= set(files)
    assert {"README.md", "LICENSE", "pyproject.toml", "requirements.txt"} <= set(files)
    assert {f"models/{name}.safetensors" for name in ("miniature", "person", "kitten")} <= set(
        files
    )
    assert {"workflows/one_subject.json", "workflows/two_subjects.json"} <= set(files)


@in_clone
def test_pages_that_the_nodes_name_are_there(files):
    for file in (name for name in files if name.endswith(".py")):
        for page in re.findall(r"docs/\w+\.md", (ROOT / file).read_text(encoding="utf-8")):
            assert page in files, f"{file} names {page}"


@in_clone
def test_nothing_else_is_there(files):
    assert not [name for name in files if any(part[0] == "." for part in name.split("/"))]
    tops = {name.split("/")[0] for name in files if "/" in name}
    assert tops <= {
        "docs",
        "locales",
        "models",
        "nested_attn_core",
        "nodes",
        "web",
        "workflows",
    } | {
        "subgraphs",
        "example_workflows",
    }
    assert {PurePosixPath(name).suffix for name in files} <= ENDINGS
    assert not [name for name in files if name.startswith("workflows/api/")]
    pictures = [name for name in files if name.endswith((".png", ".jpg", ".webp"))]
    large = [name for name in pictures if (ROOT / name).stat().st_size > LARGEST_PICTURE]
    assert [name for name in large if not name.startswith(("workflows/", "web/"))] == []


@in_clone
def test_the_archive_is_small_and_holds_these_files(files, tmp_path):
    pack(files, tmp_path / "whole")
    assert (tmp_path / "whole").stat().st_size < LARGEST
    with zipfile.ZipFile(tmp_path / "whole") as archive:
        assert archive.namelist() == files and archive.testzip() is None


@in_clone
def test_the_same_files_make_the_same_bytes(files, tmp_path):
    code = [name for name in files if name.endswith(".py")]
    for name in ("one", "two"):
        pack(code, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@in_clone
def test_names_are_good_on_windows_and_on_disks_without_case(files):
    assert len({name.lower() for name in files}) == len(files)
    for name in files:
        assert re.fullmatch(r"[\w./, -]+", name, re.ASCII) and len(name) < 100, name
        for part in name.split("/"):
            assert part.split(".")[0].lower() not in RESERVED and not part.endswith("."), name
    # A folder and a file of one name, but for case, would fall together.
    folders = {
        parent.as_posix().lower() for name in files for parent in PurePosixPath(name).parents
    }
    assert not folders & {name.lower() for name in files}


def test_outside_of_a_clone_the_reason_is_told(tmp_path):
    with pytest.raises(ArchiveError, match="build the archive from a clone"):
        packed_files(tmp_path)
