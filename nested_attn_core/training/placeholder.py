"""The placeholder's embedding as something that trains: one vector for each text stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor, nn

from .batches import Batch, Text
from .data.text import stack_text

Embeddings = Mapping[str, Tensor]


class CaptionReader(Protocol):
    """The frozen text encoders, open to gradients."""

    def text_with(self, captions: Sequence[str], placeholder: Embeddings) -> list[Text]:
        """Captions, read with an embedding (width,) a stream at the subject's token."""
        ...

    def conditions_with(
        self, pooled: Tensor | None, height: int, width: int
    ) -> Mapping[str, Tensor]:
        """As Encoders.conditions, with gradients."""
        ...


class TrainedPlaceholder(nn.Module):
    """Takes the place of the class word's embedding; the parameters are called by their streams.

    Captions depend on it, so that they are read anew in every step, through the frozen text
    encoders.

    start      (width,) of each stream: the class word's own embedding
    downscale  pixels of a picture's edge for each of the latents'
    """

    def __init__(self, start: Embeddings, reader: CaptionReader, downscale: int):
        super().__init__()
        for stream, vector in start.items():
            self.register_parameter(stream, nn.Parameter(vector.detach().float().clone()))
        self.downscale = downscale
        # A tuple hides frozen models from parameters() and state_dict().
        self._reader = (reader,)

    def forward(self, batch: Batch) -> Batch:
        """The batch with context, positions and conditions as its captions now read."""
        (reader,) = self._reader
        texts = reader.text_with(batch.captions, dict(self.named_parameters()))
        context, pooled, positions = stack_text(texts)
        height, width = (side * self.downscale for side in batch.latents.shape[-2:])
        made = reader.conditions_with(pooled, height, width)
        return replace(
            batch,
            context=context.to(batch.context),
            positions=positions,
            conditions={n: made[n].to(value) for n, value in batch.conditions.items()},
        )
