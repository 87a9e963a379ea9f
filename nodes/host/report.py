"""What a prompt binds and what Apply did, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...nested_attn_core.subject import Subject
from .binding import bound_subjects, sampling_dtype
from .mentions import Mention, Tokens, mentions
from .run import acts
from .sites import discover_sites
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


def model_report(model: Any) -> str:
    """What Apply did to a host MODEL: where it acts, and what each subject holds while sampling."""
    sites = discover_sites(model.get_model_object("diffusion_model"))
    number = sum(2 * site.width for site in sites) * sampling_dtype(model.model).itemsize
    lines = [f"{len(sites)} cross-attention sites patched"]
    for subject in bound_subjects(model):
        size = f"{len(subject.tokens)} tokens, {number * len(subject.tokens) / 1e6:.1f} MB"
        state = (
            f"{size} while sampling"
            if acts(subject)
            else "changes nothing, by its strength or its mask"
        )
        lines.append(f"{subject.name}: {state}")
    return "\n".join(lines)


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
