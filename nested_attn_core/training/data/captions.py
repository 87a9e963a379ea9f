"""Captions as data sets write them, and as the training reads them."""

from __future__ import annotations

import re

from ...placeholders import is_name
from .example import PLACEHOLDER, DataError

_BRACKETS = re.compile(r"<([^<>\s]+)>")


def canonical_caption(text: str, class_word: str) -> str:
    """The caption with PLACEHOLDER where it names the subject.

    A name in angle brackets, whatever it is, is the subject; without one it is the first place
    where the class word stands. Raises DataError, in one sentence without a full stop, for a
    caption that names nobody or several.
    """
    text = " ".join(text.split())
    names = {match[1].casefold() for match in _BRACKETS.finditer(text) if is_name(match[1])}
    if len(names) > 1:
        listed = " and ".join(f"<{name}>" for name in sorted(names))
        raise DataError(
            f"the caption names {listed}, and a picture has one subject; write the others as "
            "plain words"
        )
    if names:
        return _BRACKETS.sub(lambda match: PLACEHOLDER if is_name(match[1]) else match[0], text)
    # Other things between angle brackets are no words of the caption.
    parts = re.split(r"(<[^<>]*>)", text)
    word = re.compile(rf"(?<!\w){re.escape(class_word)}(?!\w)", re.IGNORECASE)
    for place, part in enumerate(parts):
        if not part.startswith("<") and word.search(part):
            parts[place] = word.sub(PLACEHOLDER, part, count=1)
            return "".join(parts)
    raise DataError(
        f'the caption names the subject neither as {PLACEHOLDER} nor as "{class_word}"; '
        f"write {PLACEHOLDER} where the subject is"
    )
