"""A JSONL file: a line for each picture, with its path, caption, subject and mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .example import DataError
from .items import FileBytes, Listing, Stored, file_stamp

FIELDS = ("image", "caption", "identity", "mask", "reference")


def list_jsonl(path: Path, identity: str) -> Listing:
    """The pictures of a file in the order of its lines; paths count from the file's folder.

    identity: "field" (of the line), "folder" (the picture's own) or "picture".
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; set data.path to the .jsonl file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); it must be UTF-8 text.") from error
    items, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                items.append(_item(line, path.parent, identity))
            except DataError as error:
                problems.append(f"{path.name}, line {number}: {error}")
    return Listing(items, problems)


def text_field(record: dict[str, Any], name: str) -> str | None:
    """A field that is a text, or a number, as a text; None where it is absent or empty."""
    value = record.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f'"{name}" is {json.dumps(value)}; it must be a text.')
    return str(value)


def parse_record(text: str | bytes) -> dict[str, Any]:
    """A JSON object; raises DataError for anything else."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not valid JSON ({error}).") from error
    if not isinstance(record, dict):
        raise DataError("this is no JSON object; write {...} with the fields of the picture.")
    return record


def may_refer(record: dict[str, Any]) -> bool:
    """Whether a record lets its picture be a reference."""
    value = record.get("reference", True)
    if not isinstance(value, bool):
        raise DataError(f'"reference" is {json.dumps(value)}; it must be true or false.')
    return value


def _item(line: str, folder: Path, identity: str) -> Stored:
    record = parse_record(line)
    name = text_field(record, "image")
    if name is None:
        raise DataError('there is no "image"; give the path of the picture.')
    paths = [folder / name]
    mask = text_field(record, "mask")
    if mask is not None:
        paths.append(folder / mask)
    try:
        stamp = file_stamp(*paths)
    except OSError as error:
        raise DataError(f"the file {error.filename} cannot be found.") from error
    who = {"field": text_field(record, "identity"), "folder": paths[0].parent.name, "picture": name}
    return Stored(
        origin=name,
        stamp=stamp,
        caption=text_field(record, "caption"),
        identity=who[identity],
        read=FileBytes(paths[0]),
        read_mask=FileBytes(paths[1]) if mask is not None else None,
        reference=may_refer(record),
    )
