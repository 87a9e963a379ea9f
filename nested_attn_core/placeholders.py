"""Subjects' names in prompts: `a photo of <anna> holding <rex>`.

Pure string work. A name is made of letters and digits of any script, their accents and vowel
signs, "_" and "-"; case and Unicode spelling do not matter. Anything else between angle brackets,
`<lora:x:1>` for example, is ordinary text.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import NestedAttentionError

_BRACKETS = re.compile(r"<([^<>\s]+)>")


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt, as written. `name` is the subject's own spelling; None for text."""

    text: str
    name: str | None = None


def is_name(text: str) -> bool:
    """Whether a subject may be called so."""
    return bool(text) and all(
        character in "_-" or unicodedata.category(character)[0] in "LMN" for character in text
    )


def clean_name(text: str) -> str:
    """The name in `anna`, ` anna ` or `<anna>`; raises NestedAttentionError if it is none."""
    name = text.strip()
    if name.startswith("<") and name.endswith(">"):
        name = name[1:-1].strip()
    if not is_name(name):
        raise NestedAttentionError(
            f'"{text}" cannot be a subject\'s name; use letters, digits, "_" and "-" only, '
            "for example anna."
        )
    return name


def fold_name(name: str) -> str:
    """The form in which names are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def split_prompt(text: str, names: Iterable[str]) -> tuple[Piece, ...]:
    """Cuts a prompt at each `<name>` of a known name; the pieces' texts join to the prompt."""
    known = {fold_name(name): name for name in names}
    pieces: list[Piece] = []
    end = 0
    for match in _BRACKETS.finditer(text):
        name = known.get(fold_name(match[1]))
        if name is None:
            continue
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()]))
        pieces.append(Piece(match[0], name))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:]))
    return tuple(pieces)


def names_in(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """The known names that the prompt uses, each once, in order."""
    found = (piece.name for piece in split_prompt(text, names))
    return tuple(dict.fromkeys(name for name in found if name is not None))


def unknown_names(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """What the prompt uses as a name though no subject has it, each once, as written."""
    known = {fold_name(name) for name in names}
    unknown: dict[str, str] = {}
    for match in _BRACKETS.finditer(text):
        folded = fold_name(match[1])
        if is_name(match[1]) and folded not in known:
            unknown.setdefault(folded, match[1])
    return tuple(unknown.values())


def unknown_names_message(unknown: Sequence[str], names: Sequence[str]) -> str:
    """One sentence for names that no subject has."""
    verb = "which no subject has" if len(unknown) == 1 else "which no subjects have"
    message = f"The prompt names {_listed(unknown)}, {verb}; "
    if not names:
        return message + "connect a subject, or remove the angle brackets."
    folded = {fold_name(name): name for name in names}
    near = [difflib.get_close_matches(fold_name(name), folded, 1) for name in unknown]
    hints = list(dict.fromkeys(folded[match[0]] for match in near if match))
    hint = f" (perhaps {_listed(hints)} is meant)" if hints else ""
    return message + f"known names are {_listed(names)}{hint}."


def missing_names_message(missing: Sequence[str]) -> str:
    """One sentence for subjects that no prompt names."""
    if len(missing) == 1:
        name = _listed(missing)
        return (
            f"No prompt names the subject {name}; write {name} where it should appear (where "
            "prompts are joined, in conditioning_to)."
        )
    return (
        f"No prompt names the subjects {_listed(missing)}; write each name, with its angle "
        "brackets, where the subject should appear (where prompts are joined, in conditioning_to)."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"<{name}>" for name in names)
