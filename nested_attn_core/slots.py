"""Which rows of a batch and which tokens of the context belong to subjects, in one model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NestedAttentionError


@dataclass(frozen=True, eq=False)
class Slots:
    """Positions of some subjects, checked, and on the device where they are used.

    rows    the rows of the batch that have a subject: None for all, a slice where they adjoin, else
            their numbers (R,) int64
    own     for each subject, those of these R rows where it is, in the same form
    index   (R, S) int64, the tokens of all subjects' slots, 0 for an empty one
    filled  (R, S) bool
    widths  how many of the S slots each subject has
    """

    rows: slice | Tensor | None
    own: tuple[slice | Tensor | None, ...]
    index: Tensor
    filled: Tensor | None
    widths: tuple[int, ...]

    @classmethod
    def of(cls, positions: Sequence[Tensor], tokens: int, device: torch.device) -> Slots:
        """From each subject's (B, P) positions in a context of that many tokens.

        Raises NestedAttentionError for positions outside the context and a token claimed twice.
        """
        every = torch.cat([own.cpu() for own in positions], dim=1)
        _check_positions(every, tokens)
        rows = (every >= 0).any(1)
        widths = tuple(own.shape[1] for own in positions)
        kept = every[rows]
        filled = kept >= 0
        return cls(
            rows=_numbers(rows, device),
            own=tuple(_numbers(part.any(1), device) for part in filled.split(widths, 1)),
            index=kept.clamp_min(0).to(device, non_blocking=True),
            filled=None if bool(filled.all()) else filled.to(device, non_blocking=True),
            widths=widths,
        )


def take(tensor: Tensor, rows: slice | Tensor | None) -> Tensor:
    """Those rows of a tensor whose rows they are, or all of one that has a row for all."""
    return tensor if rows is None or len(tensor) == 1 else tensor[rows]


def _numbers(chosen: Tensor, device: torch.device) -> slice | Tensor | None:
    if bool(chosen.all()):
        return None
    numbers = chosen.nonzero().flatten()
    if len(numbers) and int(numbers[-1] - numbers[0]) == len(numbers) - 1:
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers.to(device, non_blocking=True)


def _check_positions(positions: Tensor, tokens: int) -> None:
    if int(positions.max()) >= tokens:
        raise NestedAttentionError(
            f"A subject is bound to token {int(positions.max())} of a context of {tokens} tokens; "
            "encode the prompt again with the patched CLIP."
        )
    ordered = positions.sort(dim=1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise NestedAttentionError(
            "One token of the context is bound twice; bind each token to one subject, once."
        )
