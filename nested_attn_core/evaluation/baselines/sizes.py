"""Sizes at which a method without projections of its own has as many parameters as one with."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from torch import nn

from ...encoder import EncoderConfig, NestedEncoder
from ...resampler import Resampler

TOLERANCE = 0.05


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def nested_budget(config: EncoderConfig) -> int:
    """Parameters of a nested encoder of these sizes."""
    return count(NestedEncoder(config, device="meta"))


def resampler_sizes(config: EncoderConfig, tokens: int, budget: int) -> dict[str, Any]:
    """Arguments of a Resampler with `tokens` tokens and about `budget` parameters.

    Width, heads and the rest are those of `config`; depth and ff_mult are searched. Of all that
    come within 5 % the depth nearest to config's wins, and of those the nearest to the budget.
    """
    names = [field.name for field in fields(config) if field.name != "sites"]
    sizes = {**{name: getattr(config, name) for name in names}, "tokens": tokens}

    def distance(depth_and_mult: tuple[int, int]) -> tuple[float, int, float]:
        depth, mult = depth_and_mult
        made = Resampler(**{**sizes, "depth": depth, "ff_mult": mult}, device="meta")
        error = abs(count(made) / budget - 1)
        return max(error, TOLERANCE), abs(depth - config.depth), error

    depth, mult = min(itertools.product(range(1, 2 * config.depth + 3), range(1, 9)), key=distance)
    return {**sizes, "depth": depth, "ff_mult": mult}
