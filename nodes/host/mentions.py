"""Tokens of a prompt that stand for subjects, and where they stand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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


def embedded(token: SubjectToken, vector: Tensor) -> Tensor:
    """An embedding (width,) as a token that knows which subject it stands for. The host puts it in
    place of a row of its table."""
    made: Any = vector[:]  # another tensor, so that the mark is this token's alone
    made.nested_subject = token
    return made


def subject_token(token: Any) -> SubjectToken | None:
    """What a prompt's token says about a subject, if it stands for one."""
    if isinstance(token, SubjectToken):
        return token
    return getattr(token, "nested_subject", None)


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
            found = subject_token(token)
            if found is not None:
                yield Mention(found.subject, found.name, row, float(weight))
            row += 1
