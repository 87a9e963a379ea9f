"""The messages that the pack can give, read from its source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nodes", "nested_attn_core", "commands")
# What a page writes for a part that differs from case to case, and a source has in {braces}.
GAP = "..."


@cache
def templates() -> tuple[tuple[str, ...], ...]:
    """Every string of the source, as its fixed parts in their order."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    found = []
    for file in [*files, ROOT / "dev.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = _parts(node)
            if parts:
                found.append(parts)
    return tuple(found)


def _parts(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Of logging: "reached %d of %d".
        return tuple(node.value.replace("%d", "%s").split("%s"))
    if isinstance(node, ast.JoinedStr):
        return tuple(
            value.value
            for value in node.values
            if isinstance(value, ast.Constant) and isinstance(value.value, str)
        )
    return ()


def occurs(quoted: str) -> bool:
    """Whether the source has a message with these words, gaps where it fills something in."""
    wanted = [part.strip(' "') for part in quoted.split(GAP)]
    wanted = [part for part in wanted if part]
    return bool(wanted) and any(_in_order(wanted, parts) for parts in templates())


def _in_order(wanted: list[str], parts: tuple[str, ...]) -> bool:
    # Parts are joined by a sign that no page can write, so that a quote cannot run across a gap.
    text, place = "\0".join(parts), 0
    for piece in wanted:
        found = text.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return True
