"""The identity loss on the host's models: its VAE decodes, its image model may be the judge."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ...nested_attn_core.training.identity import IdentityLoss, embedder_of
from ...nested_attn_core.training.objective import NoiseSchedule
from .frozen import FrozenModels

BACKBONE = "backbone"


def identity_loss(
    frozen: FrozenModels, schedule: NoiseSchedule, name: str, weight: float, max_noise: float
) -> IdentityLoss:
    """The loss with the embedder of that name: "backbone", or "module:function"."""
    # With the base, so that the host makes room for all of them.
    patchers = [frozen.model, frozen.vae.patcher]
    if name == BACKBONE:
        patchers.append(frozen.vision.patcher)
    comfy.model_management.load_models_gpu(patchers, force_full_load=True)
    for patcher in patchers:
        patcher.model.requires_grad_(False)
    embed = _BackboneEmbedder(frozen.vision) if name == BACKBONE else embedder_of(name)
    return IdentityLoss(_Decoder(frozen), embed, schedule, weight, max_noise)


class _Decoder:
    """Latents of the denoiser to pictures (B, 3, H, W), 0 to 1, open to gradients."""

    def __init__(self, frozen: FrozenModels):
        self._base = frozen.model.model
        self._vae = frozen.vae

    def __call__(self, latents: Tensor) -> Tensor:
        inner: Any = self._base.process_latent_out(latents)
        decoded = self._vae.first_stage_model.decode(inner.to(self._vae.vae_dtype))
        return (decoded.float() + 1) / 2


class _BackboneEmbedder:
    """The mean of the image model's tokens."""

    def __init__(self, vision: Any):
        self._vision = vision

    def __call__(self, pictures: Tensor) -> Tensor:
        side = self._vision.image_size
        scale = side / min(pictures.shape[-2:])
        size = [round(edge * scale) for edge in pictures.shape[-2:]]
        small = F.interpolate(pictures, size, mode="bicubic", antialias=True)
        top, left = ((edge - side) // 2 for edge in small.shape[-2:])
        small = small[..., top : top + side, left : left + side]
        mean, deviation = (
            torch.tensor(values, device=small.device).view(3, 1, 1)
            for values in (self._vision.image_mean, self._vision.image_std)
        )
        out = self._vision.model(pixel_values=(small - mean) / deviation, intermediate_output=-2)
        return out[0].mean(1)
