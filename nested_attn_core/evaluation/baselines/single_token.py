"""Baseline: the subject as one embedding in place of the class word's (textual-inversion encoder).

As the encoders that predict a word for a picture (for example arXiv 2302.12228, 2302.13848): one
vector must hold the whole subject, since every query that looks at the word gets the same value.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...encoder import EncoderConfig
from ...resampler import Resampler
from ...training.methods import Attend, Injection, Method
from .class_rows import start_near
from .columns import Columns, weigh_columns
from .sizes import resampler_sizes


class SingleToken(Method):
    """Adds a predicted offset to the context rows at s*, as arXiv 2302.12228 does; the keys and
    values of these rows are the base's.

    strength multiplies the offset: 0 leaves the class word's row, 1 is as trained. `token_weight`
    multiplies the odds of s* as nested attention's does, so that both have the same share of the
    attention map to work with; it is the same at every strength above 0, as there.
    """

    attend: ClassVar[Attend] = staticmethod(weigh_columns)

    def __init__(self, config: EncoderConfig, budget: int, token_weight: float) -> None:
        super().__init__()
        self.resampler = Resampler(**resampler_sizes(config, 1, budget))
        start_near(self.resampler)
        self.token_weight = token_weight
        self.sites = tuple(site.name for site in config.sites)

    def forward(
        self, features: Tensor, context: Tensor, positions: Tensor, strength: float = 1.0
    ) -> Injection:
        if strength == 0:
            return Injection(context, {})
        offset = strength * self.resampler(features).to(context)
        rows = torch.arange(context.shape[1], device=context.device)
        here = (positions.to(context.device)[:, :, None] == rows).any(1)[..., None]
        changed = torch.where(here, context + offset, context)
        weighed = [Columns(positions, torch.full(positions.shape, self.token_weight))]
        return Injection(changed, dict.fromkeys(self.sites, weighed))
