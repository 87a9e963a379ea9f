"""Whether a tag may be published: what the registry and readers of the changelog rely on.

Needs only Python 3.11, or tomli. `--notes FILE` writes the changelog's section to a file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parent.parent
SEMVER = re.compile(r"\d+\.\d+\.\d+")


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """One sentence for each thing to do before `tag` can be published."""
    about = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = about["project"], about.get("tool", {}).get("comfy", {})
    version = project["version"]
    found = []
    if not SEMVER.fullmatch(version):
        found.append(f"The version {version} in pyproject.toml is not of the form 1.2.3.")
    if tag != f"v{version}":
        found.append(f"The tag is {tag}, and pyproject.toml has the version {version}.")
    found += _changelog_problems(version, root)
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text("utf-8"), re.M)
    if cited is None or cited[1] != version:
        found.append(f"CITATION.cff does not have the version {version}.")
    found += _registry_problems(project, comfy)
    return found


def _changelog_problems(version: str, root: Path) -> list[str]:
    sections = changelog(root)
    found = []
    if not sections.get(version):
        found.append(f"CHANGELOG.md has no section {version}, or nothing in it.")
    if sections.get("Unreleased"):
        found.append("CHANGELOG.md has entries under Unreleased; move them to the new version.")
    return found


def _registry_problems(project: dict[str, Any], comfy: dict[str, Any]) -> list[str]:
    found = []
    if not project.get("urls", {}).get("Repository"):
        found.append("pyproject.toml has no Repository in [project.urls], which is required.")
    if not comfy.get("PublisherId"):
        found.append("pyproject.toml has no PublisherId in [tool.comfy], which is required.")
    if project.get("dependencies"):
        found.append("pyproject.toml has dependencies; the pack is to need nothing.")
    return found


def changelog(root: Path = ROOT) -> dict[str, str]:
    """Text of each section of the changelog by its version."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\S+).*$", text, flags=re.M)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag", help="such as v0.1.0")
    parser.add_argument("--notes", type=Path, help="write the changelog's section there")
    wanted = parser.parse_args()
    found = problems(wanted.tag)
    if found:
        print(*found, sep="\n", file=sys.stderr)
        return 1
    if wanted.notes:
        wanted.notes.write_text(changelog()[wanted.tag.removeprefix("v")] + "\n", "utf-8")
    print(f"{wanted.tag} can be published.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
