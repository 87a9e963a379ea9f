"""Tokens of a prompt that stand for subjects, and where they stand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("nested_attention")

# By text encoder ("l", "g"): chunks of (token, weight, ...), as the host's tokenizers make them.
Tokens = dict[str, list[list[tuple[Any, ...]]]]


class SubjectToken(int):
    """A token id that knows which subject it stands for. To the host it is the plain id."""

    subject: int
    name: str

    def __new__(cls, token: int, subject: int = -1, name: str = "") -> SubjectToken:
        made = super().__new__(cls, token)
        made.subject, made.name = subject, name
        return made


@dataclass(frozen=True)
class Mention:
    """One token of a prompt that stands for a subject: its row in the text context."""

    subject: int
    name: str
    row: int
    weight: float


def mentions(tokens: Tokens) -> list[Mention]:
    """Where the tokens of a prompt stand for subjects.

    The two encoders of SDXL see the same prompt; where a node gives them different ones, the rows
    of the larger encoder ("g") count.
    """
    found = {stream: list(_mentions(chunks)) for stream, chunks in tokens.items()}
    used = found.get("g") or next((items for items in found.values() if items), [])
    rows = {tuple((item.subject, item.row) for item in items) for items in found.values() if items}
    if len(rows) > 1:
        log.warning(
            "The prompts of the two text encoders name subjects at different places; those of the "
            "prompt for CLIP G are used."
        )
    return used


def _mentions(chunks: list[list[tuple[Any, ...]]]) -> Iterator[Mention]:
    row = 0
    for chunk in chunks:
        for token, weight, *_ in chunk:
            if isinstance(token, SubjectToken):
                yield Mention(token.subject, token.name, row, float(weight))
            row += 1
