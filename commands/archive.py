"""Builds the archive that the Comfy registry makes: what git tracks, without .comfyignore's lines.

Needs only Python and git. The same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IGNORED = ".comfyignore"
# The earliest time that a zip can hold.
NO_TIME = (1980, 1, 1, 0, 0, 0)
MIB = 2**20


class ArchiveError(Exception):
    """The archive cannot be built, for a reason that one sentence explains."""


def packed_files(root: Path = ROOT) -> list[str]:
    """Paths of all files of the archive, relative to `root`, with "/" on every system."""
    tracked = _git(root, "ls-files", "--cached")
    ignored = _git(root, "ls-files", "--cached", "--ignored", f"--exclude-from={root / IGNORED}")
    return sorted(set(tracked) - set(ignored))


def _git(root: Path, *arguments: str) -> list[str]:
    command = ["git", "-c", "core.quotePath=false", *arguments, "-z"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise ArchiveError(
            "There is no git here: install git and run the command again."
        ) from error
    except subprocess.CalledProcessError as error:
        raise ArchiveError(
            f"git does not know {root} ({error.stderr.decode(errors='replace').strip()}): "
            "build the archive from a clone."
        ) from error
    return [path for path in done.stdout.decode("utf-8").split("\0") if path]


def pack(files: Iterable[str], target: Path, root: Path = ROOT) -> None:
    """Writes the archive; the files lie at its top, as the registry unpacks them into a folder of
    its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, NO_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            # Weights hardly get smaller, whatever the effort.
            archive.writestr(entry, (root / name).read_bytes(), compresslevel=1)
    partial.replace(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="dev.py archive")
    default = ROOT / ".local" / "archive" / "nested-attention.zip"
    parser.add_argument("--out", type=Path, default=default, help="the file to write")
    parser.add_argument("--list", action="store_true", help="only say what would be in it")
    wanted = parser.parse_args()
    try:
        files = packed_files()
        sizes = {name: (ROOT / name).stat().st_size for name in files}
        if wanted.list:
            for name, size in sizes.items():
                print(f"{size:>10} {name}")
        else:
            pack(files, wanted.out)
            print(f"{wanted.out}: {wanted.out.stat().st_size / MIB:.1f} MiB")
        print(f"{len(files)} files, {sum(sizes.values()) / MIB:.1f} MiB unpacked")
    except ArchiveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
