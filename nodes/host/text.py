"""Names in prompts, bound to tokens: a tokenizer that understands `<name>`, and a text encode
that writes what it finds into the conditioning."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.placeholders import (
    Piece,
    fold_name,
    names_in,
    split_prompt,
    unknown_names,
    unknown_names_message,
)
from ...nested_attn_core.subject import Subject, Subjects
from .carrier import Slot, with_slots

ENCODE = "encode_token_weights"
# Rare words that are one token of CLIP's vocabulary each; one that the prompt lacks is used.
_STAND_INS = ("sks", "ohwx", "hta", "oof", "sht", "phol", "olis", "ewe", "qtr")
_STRANGE_TOKENIZER = (
    "The tokenizer of this text encoder reads a prompt in a way in which subjects cannot be found; "
    "use the text encoder of an SD1.5 or SDXL model."
)

log = logging.getLogger("nested_attention")

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


def subject_id(subject: Subject) -> int:
    """63 bits that name a subject in a conditioning: its name and its nested tokens, so that
    settings may change, and sets may be joined, without encoding a prompt again."""
    text = f"{fold_name(subject.name)} {subject.tokens_fingerprint}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class NestedTokenizer:
    """A host tokenizer in whose prompts `<name>` reads as the subject's class word.

    The token ids are those of the same prompt with the class word; the subject's tokens are
    SubjectToken. A name that no subject has raises NestedAttentionError.
    """

    def __init__(self, inner: Any, subjects: Subjects):
        self.inner = inner
        self.subjects = subjects

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **options: Any
    ) -> Tokens:
        unknown = unknown_names(text, self.subjects.names)
        if unknown:
            raise NestedAttentionError(unknown_names_message(unknown, self.subjects.names))
        pieces = split_prompt(text, self.subjects.names)
        called = {subject.name: subject for subject in self.subjects}
        mentioned = [called[piece.name] for piece in pieces if piece.name is not None]

        def tokens(of: str) -> Tokens:
            return self.inner.tokenize_with_weights(of, return_word_ids, **options)

        if not mentioned:
            return tokens(text)
        plain = tokens(_written(pieces, [subject.class_word for subject in mentioned]))
        return self._marked(pieces, mentioned, plain, tokens)

    def _marked(
        self,
        pieces: Sequence[Piece],
        mentioned: Sequence[Subject],
        plain: Tokens,
        tokens: Callable[[str], Tokens],
    ) -> Tokens:
        """The plain tokens, marked where the same prompt has a stand-in for each piece."""
        word, ids = self._stand_in(plain)
        counts = [self._pieces(subject.class_word) for subject in mentioned]
        length = [max(map(len, count.values())) for count in counts]
        other = tokens(_written(pieces, [" ".join([word] * n) for n in length]))
        return {
            stream: _mark(
                chunks,
                other[stream],
                ids[stream],
                [
                    (subject_id(subject), subject.name)
                    for subject, count in zip(mentioned, counts, strict=True)
                    for _ in count[stream]
                ],
            )
            for stream, chunks in plain.items()
        }

    def _stand_in(self, plain: Tokens) -> tuple[str, dict[str, int]]:
        for word in _STAND_INS:
            ids = self._pieces(word)
            single = all(len(found) == 1 for found in ids.values())
            if single and not any(ids[name][0] in _ids(plain[name]) for name in plain):
                return word, {name: found[0] for name, found in ids.items()}
        raise NestedAttentionError(_STRANGE_TOKENIZER)

    def _pieces(self, word: str) -> dict[str, list[int]]:
        """Token ids of a word, for each stream of the tokenizer."""
        empty = self.inner.tokenize_with_weights("")
        found = self.inner.tokenize_with_weights(word)
        return {name: _between(empty[name][0], found[name][0]) for name in found}


class NestedTextEncode:
    """The text model's encode, which adds the rows of the subjects' tokens to the conditioning."""

    def __init__(self, inner: Callable[[Tokens], Sequence[Any]]):
        self.inner = inner

    def __call__(self, tokens: Tokens) -> tuple[Any, ...]:
        context, pooled, *rest = self.inner(tokens)
        extra = dict(rest[0]) if rest else {}
        slots = _slots(mentions(tokens), context.shape[1])
        if slots:
            extra["model_conds"] = with_slots(extra.get("model_conds", {}), slots)
        return (context, pooled, extra) if extra else (context, pooled)


def bind_clip(clip: Any, subjects: Subjects) -> Any:
    """A clone of the host's CLIP whose prompts may name ``subjects``, beside those it knew."""
    bound = clip.clone()
    inner = clip.tokenizer
    if isinstance(inner, NestedTokenizer):
        inner, subjects = inner.inner, Subjects.of(inner.subjects, subjects)
    bound.tokenizer = NestedTokenizer(inner, subjects)
    encode = bound.patcher.get_model_object(ENCODE)
    if not isinstance(encode, NestedTextEncode):
        bound.patcher.add_object_patch(ENCODE, NestedTextEncode(encode))
    return bound


def known_subjects(clip: Any) -> Subjects:
    """The subjects that a CLIP's prompts may name."""
    tokenizer = clip.tokenizer
    return tokenizer.subjects if isinstance(tokenizer, NestedTokenizer) else Subjects()


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


def binding_report(clip: Any, text: str, tokens: Tokens) -> str:
    """What a prompt binds, one line for each subject that the CLIP knows."""
    places: dict[str, list[Mention]] = {}
    for mention in mentions(tokens):
        places.setdefault(mention.name, []).append(mention)
    subjects = known_subjects(clip)
    if not len(subjects):
        return "This CLIP knows no subject; connect the CLIP output of Apply Nested Attention."
    used = names_in(text, subjects.names)
    return "\n".join(
        _report_line(subject, places.get(subject.name, []), subject.name in used)
        for subject in subjects
    )


def _report_line(subject: Subject, places: Sequence[Mention], used: bool) -> str:
    if not used or not places:
        return f"<{subject.name}> is not named in this prompt"
    rows = ", ".join(
        str(place.row) + ("" if place.weight == 1 else f" (weight {place.weight:g})")
        for place in places
    )
    label = "row" if len(places) == 1 else "rows"
    return f'<{subject.name}> reads as "{subject.class_word}", {label} {rows} of the context'


def _written(pieces: Sequence[Piece], words: Iterable[str]) -> str:
    """The prompt with a word for each name, kept apart from letters and digits beside it."""
    words = iter(words)
    text, after_name = "", False
    for piece in pieces:
        part = piece.text if piece.name is None else next(words)
        apart = piece.name is not None or after_name
        if apart and text[-1:].isalnum() and part[:1].isalnum():
            text += " "
        text, after_name = text + part, piece.name is not None
    return text


def _mark(
    plain: list[list[tuple[Any, ...]]],
    other: list[list[tuple[Any, ...]]],
    stand_in: int,
    subjects: Sequence[tuple[int, str]],
) -> list[list[tuple[Any, ...]]]:
    """``plain`` with the entries marked at which ``other`` has the stand-in."""
    places = [
        (chunk, index)
        for chunk, entries in enumerate(other)
        for index, entry in enumerate(entries)
        if _is_token(entry[0]) and entry[0] == stand_in
    ]
    if len(places) != len(subjects) or [len(c) for c in plain] != [len(c) for c in other]:
        raise NestedAttentionError(_STRANGE_TOKENIZER)
    marked = [list(entries) for entries in plain]
    for (chunk, index), (subject, name) in zip(places, subjects, strict=True):
        token, *rest = marked[chunk][index]
        marked[chunk][index] = (SubjectToken(token, subject, name), *rest)
    return marked


def _mentions(chunks: list[list[tuple[Any, ...]]]) -> Iterator[Mention]:
    row = 0
    for chunk in chunks:
        for token, weight, *_ in chunk:
            if isinstance(token, SubjectToken):
                yield Mention(token.subject, token.name, row, float(weight))
            row += 1


def _slots(found: Sequence[Mention], length: int) -> list[Slot]:
    return [(mention.subject, mention.row, length) for mention in found if mention.row < length]


def _between(empty: Sequence[tuple[Any, ...]], filled: Sequence[tuple[Any, ...]]) -> list[int]:
    """The ids between the start and the end token, which are the empty prompt's first two."""
    ids = [entry[0] for entry in filled[1:]]
    if len(empty) < 2 or empty[1][0] not in ids:
        raise NestedAttentionError(_STRANGE_TOKENIZER)
    return ids[: ids.index(empty[1][0])]


def _ids(chunks: Iterable[Sequence[tuple[Any, ...]]]) -> set[int]:
    return {entry[0] for chunk in chunks for entry in chunk if _is_token(entry[0])}


def _is_token(entry: Any) -> bool:
    return isinstance(entry, int)
