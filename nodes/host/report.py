"""What a prompt binds, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...nested_attn_core.subject import Subject
from .mentions import Mention, Tokens, mentions
from .text import known_subjects


def binding_report(clip: Any, tokens: Tokens) -> str:
    """What a prompt binds, one line for each subject that the CLIP knows."""
    places: dict[str, list[Mention]] = {}
    for mention in mentions(tokens):
        places.setdefault(mention.name, []).append(mention)
    subjects = known_subjects(clip)
    if not len(subjects):
        return "This CLIP knows no subject; connect the CLIP output of Apply Nested Attention."
    return "\n".join(_line(subject, places.get(subject.name, [])) for subject in subjects)


def _line(subject: Subject, places: Sequence[Mention]) -> str:
    # As Markdown, and without <>: the frontend's text preview would take <anna> for a tag.
    if not places:
        return f"- {subject.name}: not named in this prompt"
    rows = ", ".join(
        str(place.row) + ("" if place.weight == 1 else f" (weight {place.weight:g})")
        for place in places
    )
    label = "row" if len(places) == 1 else "rows"
    return f'- {subject.name}: reads as "{subject.class_word}", {label} {rows} of the context'
