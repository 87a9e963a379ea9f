"""The miniature's latents: patches of the image on their principal components.

A linear code needs no training, so base model, decoder and encoder can be trained side by side; the
autoencoder that ships learns to turn it back into a picture (better than the linear inverse does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PatchCode:
    """mean (3 p^2,), basis (3 p^2, channels) of orthonormal columns, scale (channels,), patch p."""

    mean: Tensor
    basis: Tensor
    scale: Tensor
    patch: int

    @classmethod
    def fit(cls, images: Tensor, channels: int, patch: int) -> PatchCode:
        """images (n, 3, H, W) in -1..1.

        A component is scaled by the geometric mean of its own standard deviation and the first
        one's, so that small components neither vanish nor dominate."""
        patches = F.pixel_unshuffle(images, patch).movedim(1, -1).reshape(-1, 3 * patch**2)
        mean = patches.mean(0)
        centred = (patches - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        deviation = values.flip(0)[:channels].clamp_min(0).sqrt()
        # A component that never varies must not be divided by zero.
        scale = (deviation.clamp_min(1e-3 * deviation[0]) * deviation[0]).sqrt() * 0.9
        return cls(mean, vectors.flip(1)[:, :channels].float().contiguous(), scale.float(), patch)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], patch: int) -> PatchCode:
        """The code whose `state` was kept, alone or among other things."""
        return cls(state["mean"], state["basis"], state["scale"], patch)

    def encode(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) in -1..1 -> (n, channels, H/p, W/p)"""
        patches = F.pixel_unshuffle(images, self.patch) - self.mean.view(1, -1, 1, 1)
        return torch.einsum("bchw,ck->bkhw", patches, self.basis) / self.scale.view(1, -1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """The linear inverse, (n, channels, h, w) -> (n, 3, h p, w p)"""
        scaled = latents * self.scale.view(1, -1, 1, 1)
        patches = torch.einsum("bkhw,ck->bchw", scaled, self.basis) + self.mean.view(1, -1, 1, 1)
        return F.pixel_shuffle(patches, self.patch)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "basis": self.basis, "scale": self.scale}
