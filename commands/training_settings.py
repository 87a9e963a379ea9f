"""Writes the settings of a training, as their own descriptions tell them, into docs/training.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pack

PAGE = pack.ROOT / "docs" / "training.md"
BEGIN, END = "<!-- settings: written by commands/training_settings.py -->", "<!-- settings end -->"


def tables() -> str:
    """A heading and a table for each section of the settings."""
    config = pack.module("nested_attn_core.training.config")
    reader = pack.module("nested_attn_core.training.config_file")
    parts = []
    for section, field in config.TrainingConfig.model_fields.items():
        rows = [
            f"| `{key.split('.')[1]}` | {_cell(reader.expected(setting))} | {_default(setting)} | "
            f"{_cell(setting.description)} |"
            for key, setting in reader.settings()
            if key.split(".")[0] == section
        ]
        about = (field.annotation.__doc__ or "").strip()
        head = "| setting | takes | default | meaning |\n|---|---|---|---|\n"
        parts.append(f"### [{section}]\n\n{about}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(parts)


def page(text: str) -> str:
    """The page with its tables renewed; raises ValueError where it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has lost the lines {BEGIN} and {END}; put them back.")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _default(setting: Any) -> str:
    if setting.is_required():
        return "needed"
    value = setting.default
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`" if isinstance(value, str) else str(value)


def _cell(text: str) -> str:
    """Without what Markdown would take for the end of a cell or for a tag."""
    return text.replace("|", "\\|").replace("<subject>", "`<subject>`")


def main(path: Path = PAGE) -> int:
    text = path.read_text(encoding="utf-8")
    path.write_text(page(text), encoding="utf-8")
    print(f"{path.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
