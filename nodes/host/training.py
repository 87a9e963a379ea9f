"""The host's side of training: its UNet with our patch on every site, open to gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nested_attn_core.attention import nested_attention
from .patch import PLAN, NestedPatch, NestedPlan
from .sites import discover_sites


class PatchedDenoiser:
    """Calls a diffusion model through the patch objects that Apply Nested Attention installs."""

    def __init__(
        self,
        diffusion_model: nn.Module,
        multiplier: float = 1000.0,
        attend: Callable[..., Tensor] = nested_attention,
    ):
        self.diffusion_model = diffusion_model.requires_grad_(False)
        self.multiplier = multiplier
        self.sites = discover_sites(diffusion_model)
        self._patches = {site.key: NestedPatch(site.name, attend=attend) for site in self.sites}

    def __call__(
        self,
        noised: Tensor,
        sigma: Tensor,
        context: Tensor,
        items: Mapping[str, Sequence[Any]],
    ) -> Tensor:
        """As nested_attn_core.training.encoder.Denoiser."""
        options: dict[str, Any] = {
            "patches_replace": {"attn2": dict(self._patches)},
            PLAN: NestedPlan(len(noised), items),
        }
        noised = noised.contiguous(memory_format=torch.channels_last)
        return self.diffusion_model(
            noised, sigma * self.multiplier, context=context, transformer_options=options
        )
