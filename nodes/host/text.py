"""Names in prompts, bound to tokens: a tokenizer that understands `<name>`, and a text encode
that writes what it finds into the conditioning."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.placeholders import (
    Piece,
    fold_name,
    split_prompt,
    unknown_names,
    unknown_names_message,
)
from ...nested_attn_core.subject import Subject, Subjects
from .carrier import mark, with_slots
from .mentions import SubjectToken, Tokens, embedded, mentions

ENCODE = "encode_token_weights"
# Rare words that are one token of CLIP's vocabulary each; one that the prompt lacks is used.
_STAND_INS = ("sks", "ohwx", "hta", "oof", "sht", "phol", "olis", "ewe", "qtr")
TOO_DEEP = (
    "The prompt nests its brackets too deeply to be read; write fewer of them inside each other."
)
NOT_TEXT = (
    "The prompt holds half a character ({}), which no text encoder can read; delete it, or "
    "type the character anew."
)
_STRANGE_TOKENIZER = (
    "The tokenizer of this text encoder reads a prompt in a way in which subjects cannot be found; "
    "use the text encoder of an SD1.5 or SDXL model."
)


def subject_id(subject: Subject) -> int:
    """63 bits that name a subject in a conditioning: its name and its nested tokens, so that
    settings may change, and sets may be joined, without encoding a prompt again."""
    text = f"{fold_name(subject.name)} {subject.tokens_fingerprint}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class NestedTokenizer:
    """A host tokenizer in whose prompts `<name>` reads as the subject's class word.

    The token ids are those of the same prompt with the class word; the subject's tokens are
    SubjectToken, or the subject's placeholder embedding for that stream, if it has one. A name that
    no subject has raises NestedAttentionError.
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
        _check_characters(text)
        unknown = unknown_names(text, self.subjects.names)
        if unknown:
            raise NestedAttentionError(unknown_names_message(unknown, self.subjects.names))
        pieces = split_prompt(text, self.subjects.names)
        called = {subject.name: subject for subject in self.subjects}
        mentioned = [called[piece.name] for piece in pieces if piece.name is not None]

        def tokens(of: str) -> Tokens:
            try:
                found = self.inner.tokenize_with_weights(of, return_word_ids, **options)
            except RecursionError as error:
                raise NestedAttentionError(TOO_DEEP) from error
            _check_weights(found)
            return found

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
                    (subject, subject.placeholder.get(stream))
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


def _check_characters(text: str) -> None:
    """A surrogate without its other half comes from text that was cut, e.g. inside an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise NestedAttentionError(NOT_TEXT.format(half)) from error


def _check_weights(tokens: Tokens) -> None:
    """Raises NestedAttentionError for a weight of which only NaN could come."""
    for chunks in tokens.values():
        for _, weight, *_ in itertools.chain.from_iterable(chunks):
            if not math.isfinite(weight):
                raise NestedAttentionError(
                    f"The prompt gives a word the weight {weight:g}; write a number after the "
                    "colon, such as (red:1.2)."
                )


class NestedTextEncode:
    """The text model's encode, which adds the rows of the subjects' tokens to the conditioning."""

    def __init__(self, inner: Callable[[Tokens], Sequence[Any]]):
        self.inner = inner

    def __call__(self, tokens: Tokens) -> tuple[Any, ...]:
        context, pooled, *rest = self.inner(tokens)
        extra = dict(rest[0]) if rest else {}
        slots = [
            (mention.subject, mention.row, context.shape[1])
            for mention in mentions(tokens)
            if mention.row < context.shape[1]
        ]
        mark(context, slots)
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
    subjects: Sequence[tuple[Subject, Tensor | None]],
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
    for (chunk, index), (subject, vector) in zip(places, subjects, strict=True):
        token, *rest = marked[chunk][index]
        known = SubjectToken(token, subject_id(subject), subject.name)
        marked[chunk][index] = (known if vector is None else embedded(known, vector), *rest)
    return marked


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
