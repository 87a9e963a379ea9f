"""Now and then a training leaves something out, so that the encoder does not lean on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .batches import Batch, Encoders, Examples, Text
from .data.example import PLACEHOLDER
from .data.text import stack_text
from .objective import sample_generator


@dataclass(frozen=True)
class Drops:
    """Examples of which some lose their caption or their reference.

    text    share of captions that become the subject's name alone: what the picture shows beside
            it must then come from the subject, or stay open
    image   share of references that become zeros: the encoder learns what its domain has in common

    Both at once does not happen. Which example loses what follows from seed and number.
    """

    examples: Examples
    encoders: Encoders
    downscale: int
    text: float
    image: float
    seed: int

    def batch(self, numbers: Sequence[int]) -> Batch:
        """As Examples.batch."""
        batch = self.examples.batch(numbers)
        generators = [sample_generator(self.seed, number, "drop") for number in numbers]
        lots = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        no_text, no_image = lots < self.text, lots >= 1 - self.image
        if bool(no_image.any()):
            kept = (~no_image).to(batch.features.dtype)[:, None, None]
            batch = replace(batch, features=batch.features * kept)
        return self._without_text(batch, no_text) if bool(no_text.any()) else batch

    def prepare(self) -> None:
        """Encodes what stands in for a dropped caption, while the text encoder is at hand."""
        if self.text:
            _ = self._bare

    @cached_property
    def _bare(self) -> Text:
        return self.encoders.text([PLACEHOLDER])[0]

    def _without_text(self, batch: Batch, rows: Tensor) -> Batch:
        # The second row lends its length.
        pair = [self._bare, Text(batch.context[0], ())]
        context, _, positions = stack_text(pair)
        pooled = self._bare.pooled
        height, width = (side * self.downscale for side in batch.latents.shape[-2:])
        conditions = self.encoders.conditions(
            None if pooled is None else pooled[None], height, width
        )
        return replace(
            batch,
            context=_put(batch.context, context[:1], rows),
            positions=_put(*_equally_wide(batch.positions, positions[:1]), rows),
            conditions={
                name: _put(value, conditions[name], rows)
                for name, value in batch.conditions.items()
            },
            captions=tuple(
                PLACEHOLDER if dropped else caption
                for caption, dropped in zip(batch.captions, rows.tolist(), strict=False)
            ),
        )


def _put(rows: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """`other` (1, ...) in place of the rows at which `where` holds."""
    shape = (-1, *([1] * (rows.ndim - 1)))
    return torch.where(where.view(shape), other.to(rows), rows)


def _equally_wide(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    width = max(left.shape[1], right.shape[1])
    pad = torch.nn.functional.pad
    return (
        pad(left, (0, width - left.shape[1]), value=-1),
        pad(right, (0, width - right.shape[1]), value=-1),
    )
