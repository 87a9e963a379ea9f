"""The words that the miniature knows: the host's tokenizer, its rows packed into a small table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

START, END, LENGTH = 49406, 49407, 77
UNKNOWN = 0


class Vocabulary:
    """Maps the host's token ids to rows: 0 is every unknown word, then start, end, the rest."""

    def __init__(self, token_ids: Sequence[int]):
        self.token_ids = tuple(token_ids)
        self._row = {token: row + 1 for row, token in enumerate(self.token_ids)}

    def __len__(self) -> int:
        return len(self.token_ids) + 1

    @classmethod
    def of(
        cls,
        captions: Iterable[str],
        tokenize: Callable[[str], list[int]],
        known: Sequence[int] = (),
    ) -> Vocabulary:
        """tokenize gives the 77 ids of a caption, start, end and padding included; `known` ids keep
        the rows that they have."""
        seen = {token for caption in captions for token in tokenize(caption)}
        first = tuple(known) or (START, END)
        return cls([*first, *sorted(seen.difference(first))])

    def rows(self, token_ids: Iterable[int]) -> list[int]:
        return [self._row.get(token, UNKNOWN) for token in token_ids]

    def encode(self, captions: Iterable[str], tokenize: Callable[[str], list[int]]) -> Tensor:
        """(n captions, 77) int64 rows"""
        return torch.tensor([self.rows(tokenize(caption)) for caption in captions])
