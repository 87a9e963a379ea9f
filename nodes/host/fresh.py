"""Encoders as a training begins them, of the sizes that a base asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...nested_attn_core.encoder import EncoderConfig, NestedEncoder, Site

# The base's own (to_k, to_v) by site.
Projections = Mapping[str, tuple[Tensor, Tensor]]


def encoder_sizes(
    projections: Projections,
    sites: tuple[Site, ...],
    *,
    feature_dim: int,
    tokens: int,
    width: int,
    depth: int,
    heads: int,
    ff_mult: int,
) -> EncoderConfig:
    """Sizes as wished, with nested tokens as wide as the base's context."""
    return EncoderConfig(
        feature_dim=feature_dim,
        tokens=tokens,
        token_dim=next(iter(projections.values()))[0].shape[1],
        width=width,
        depth=depth,
        heads=heads,
        head_dim=width // heads,
        ff_mult=ff_mult,
        sites=sites,
    )


def fresh_encoder(
    sizes: EncoderConfig, seed: int, projections: Projections | None
) -> NestedEncoder:
    """An untrained encoder, fp32, drawn from `seed` alone; its nested projections start from the
    base's own unless they are None."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = NestedEncoder(sizes)
    if projections is not None:
        encoder.projections.init_from(projections)
    return encoder
