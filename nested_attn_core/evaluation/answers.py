"""What the ruler answers, held against what captions say: right answers per picture and head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..training.miniature.attributes import MISSING, prompt_heads


def named(labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where a caption names what a prompt head reads: one bool (n,) a prompt head.

    A look that a caption leaves out (no scarf, no style) has a class, too, but is not asked for."""
    found = {}
    for head, values in prompt_heads().items():
        words = torch.tensor([bool(value) for value in values])
        asked = labels[head]
        found[head] = (asked != MISSING) & words[asked.clamp_min(0)]
    return found


def right(
    guesses: Mapping[str, Tensor], labels: Mapping[str, Tensor], asked: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Per picture, over the heads of `asked`: right answers and questions, float64 (n,) each."""
    hits = [((guesses[h] == labels[h]) & where).double() for h, where in asked.items()]
    of = [where.double() for where in asked.values()]
    return torch.stack(hits).sum(0), torch.stack(of).sum(0)


def accuracy(guesses: Mapping[str, Tensor], labels: Mapping[str, Tensor], head: str, rows: Tensor):
    """Share of right answers of one head on the pictures `rows` (bool); None without any."""
    count = int(rows.sum())
    return float((guesses[head] == labels[head])[rows].double().mean()) if count else None


def accuracies(guesses: Mapping[str, Tensor], labels: Mapping[str, Tensor], digits: int):
    """`accuracy` of every head of `guesses`, where pictures show what it reads, rounded."""
    seen = shown(labels, guesses)
    found = {head: accuracy(guesses, labels, head, rows) for head, rows in seen.items()}
    return {head: None if v is None else round(v, digits) for head, v in found.items()}


def shown(labels: Mapping[str, Tensor], heads: Iterable[str]) -> dict[str, Tensor]:
    """Where pictures show what the heads read: one bool (n,) a head."""
    return {head: labels[head] != MISSING for head in heads}
