"""Baseline: image tokens appended to the text context, attended with the words in one softmax."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...encoder import EncoderConfig
from ...resampler import Resampler
from ...training.methods import Attend, Injection, Method
from .class_rows import class_rows, start_near
from .columns import Columns, weigh_columns
from .sizes import resampler_sizes


class AppendedTokens(Method):
    """The class word's row plus each of the resampler's tokens as further rows of the context; keys
    and values are the base's.

    strength multiplies the odds of each of them against the words (log(strength) on the logit), as
    the host's own Apply Style Model does under "attn_bias" for tokens appended to its context: 0
    hides them, 1 is as trained. They have weight 1 each: sixteen of them have the odds, all
    together, that nested attention's token weight of 16 gives to its one token.
    """

    attend: ClassVar[Attend] = staticmethod(weigh_columns)

    def __init__(self, config: EncoderConfig, budget: int) -> None:
        super().__init__()
        self.resampler = Resampler(**resampler_sizes(config, config.tokens, budget))
        start_near(self.resampler)
        self.sites = tuple(site.name for site in config.sites)

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        if strength == 0:
            return Injection(context, {})
        tokens = class_rows(context, positions) + self.resampler(features).to(context)
        count = tokens.shape[1]
        columns = torch.arange(context.shape[1], context.shape[1] + count).expand(len(context), -1)
        present = (positions >= 0).any(1, keepdim=True).cpu()
        weighed = [Columns(columns, (present * strength).expand(-1, count))]
        return Injection(torch.cat([context, tokens], 1), dict.fromkeys(self.sites, weighed))
