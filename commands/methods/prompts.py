"""Prompts that name subjects, read as the pack's own text encode reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pack
from stages.common import core


@dataclass(frozen=True)
class Texts:
    """Prompts, encoded.

    context    (B, T, c)
    positions  name -> (B, P) int64: rows of the context that stand for it, -1 for an empty slot
    """

    context: Tensor
    positions: Mapping[str, Tensor]

    def __getitem__(self, rows: slice) -> Texts:
        return Texts(
            self.context[rows], {name: found[rows] for name, found in self.positions.items()}
        )


class Reader:
    """Reads prompts with the host's CLIP; each of them is encoded once."""

    def __init__(self, clip: Any):
        self.clip = clip
        self._known: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Tensor, dict]] = {}

    def __call__(
        self, prompts: Sequence[str], class_words: Mapping[str, str] | None = None
    ) -> Texts:
        """`class_words`: name -> what is read where a prompt has `<name>`, such as "person".

        Raises NestedAttentionError for a `<name>` that has no class word.
        """
        words = dict(class_words or {})
        read = [self._read(prompt, words) for prompt in prompts]
        return Texts(
            torch.cat([context for context, _ in read]),
            {name: _padded([rows[name] for _, rows in read]) for name in words},
        )

    def _read(self, prompt: str, words: dict[str, str]) -> tuple[Tensor, dict[str, list[int]]]:
        key = prompt, tuple(words.items())
        if key not in self._known:
            tokens = _tokenizer(self.clip, words).tokenize_with_weights(prompt)
            rows: dict[str, list[int]] = {name: [] for name in words}
            for mention in pack.module("nodes.host.mentions").mentions(tokens):
                rows[mention.name].append(mention.row)
            self._known[key] = self.clip.encode_from_tokens(tokens), rows
        return self._known[key]


def _tokenizer(clip: Any, words: Mapping[str, str]) -> Any:
    """The pack's tokenizer, told of names and class words only: nothing is encoded of subjects."""
    subject = core("subject")
    named = [
        subject.Subject(
            name=name,
            tokens=torch.zeros(1, 1),
            class_word=word,
            domain=word,
            encoder=None,
            encoder_fingerprint="",
        )
        for name, word in words.items()
    ]
    text = pack.module("nodes.host.text")
    return text.NestedTokenizer(clip.tokenizer, subject.Subjects.of(*named))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.long)
