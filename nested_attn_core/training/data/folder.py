"""A folder of pictures, each with its caption in a text file beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .example import DataError
from .items import FileBytes, Listing, Stored, file_stamp
from .pictures import SUFFIXES

MASK = ".mask.png"


def list_folder(folder: Path, identity: str) -> Listing:
    """Every picture in a folder and its subfolders, in the order of their names.

    `cat1/07.jpg` has its caption in `cat1/07.txt` and its mask, if it has one, in
    `cat1/07.mask.png`. identity: "folder" (the topmost subfolder) or "picture".
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; set data.path to the folder of pictures.")
    items, problems = [], []
    for path in _pictures(folder):
        inside = path.relative_to(folder)
        who = inside.parts[0] if len(inside.parts) > 1 else None
        try:
            items.append(_item(path, str(inside), str(inside) if identity == "picture" else who))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{inside} cannot be read ({error}).")
    return Listing(items, problems)


def _pictures(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            # Systems leave hidden files beside pictures, with the same suffix.
            if name.startswith(".") or name.lower().endswith(MASK):
                continue
            if name.lower().endswith(SUFFIXES):
                yield Path(place, name)


def _item(path: Path, origin: str, identity: str | None) -> Stored:
    caption, mask = path.with_suffix(".txt"), path.with_suffix(MASK)
    masked = mask.is_file()
    return Stored(
        origin=origin,
        stamp=file_stamp(path, mask) if masked else file_stamp(path),
        caption=caption.read_text(encoding="utf-8").strip() if caption.is_file() else None,
        identity=identity,
        read=FileBytes(path),
        read_mask=FileBytes(mask) if masked else None,
    )
