"""Ways of putting a subject into a frozen base, alike to the trainer and to the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..attention import NormControl, SiteSubject, nested_attention
from ..encoder import NestedEncoder
from .batches import Batch
from .placeholder import TrainedPlaceholder

# (base, query, key, value, items of the site, heads) -> output, as nested_attention
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[Any], int], Tensor]


@dataclass(frozen=True)
class Injection:
    """What a subject does to one model call of B rows.

    context  (B, T', c): the text context, perhaps changed or longer
    sites    site name -> the items that the method's `attend` takes there
    """

    context: Tensor
    sites: Mapping[str, Sequence[Any]]


class Method(nn.Module):
    """Holds what trains; `attend` is what happens at each cross-attention site."""

    attend: ClassVar[Attend] = staticmethod(nested_attention)

    def read(self, batch: Batch) -> Batch:
        """The batch with its captions as this method's own weights let them be read."""
        return batch

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        """One subject a row.

        features   (B, L, d) of the image backbone
        context    (B, T, c) of the text encoder, for prompts that name the subject by class word
        positions  (B, P) int64: rows of the context that are the class word's tokens, -1 for none
        strength   1 as trained; 0 leaves the base's result as it is, bit for bit
        """
        raise NotImplementedError


class NestedMethod(Method):
    """Nested attention: context and keys stay, the value of the class word's token is nested.

    norm and token_weight are those of attention.SiteSubject. A placeholder trains beside the
    encoder and is what captions are read with.
    """

    def __init__(
        self,
        encoder: NestedEncoder,
        norm: NormControl,
        token_weight: float,
        placeholder: TrainedPlaceholder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = norm
        self.token_weight = token_weight
        self.placeholder = placeholder

    def read(self, batch: Batch) -> Batch:
        return batch if self.placeholder is None else self.placeholder(batch)

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        projected = self.encoder.keys_values(self.encoder(features))
        return Injection(
            context,
            {
                site: [
                    SiteSubject(
                        key, value, positions, strength, self.norm, token_weight=self.token_weight
                    )
                ]
                for site, (key, value) in projected.items()
            },
        )
