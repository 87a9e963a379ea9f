"""Where the rows that a method puts into the context start: near the class word's own row.

Words far from all that a base has learned can leave its attention saturated, with next to no
gradient: on the miniature, single and appended tokens that start at random learn hardly anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...resampler import Resampler

GAIN = 0.1  # of the resampler's last norm before training; text rows have an rms of about 0.7


def start_near(resampler: Resampler) -> None:
    """Makes the tokens of an untrained resampler small beside a row of the context."""
    nn.init.constant_(resampler.norm_out.weight, GAIN)


def class_rows(context: Tensor, positions: Tensor) -> Tensor:
    """The row of context (B, T, C) at the first of positions (B, n), as (B, 1, C); zeros where that
    is -1."""
    first = positions.to(context.device)[:, :1]
    here = first == torch.arange(context.shape[1], device=context.device)
    return (here[..., None] * context).sum(1, keepdim=True)
