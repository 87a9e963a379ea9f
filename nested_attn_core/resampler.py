"""Image features to nested tokens by learned queries (the paper's Q-Former, Sec. 3 and Fig. 2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import NestedAttentionError


class FeatureAttention(nn.Module):
    """Cross-attention of the latents over features and latents together."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        options = {"dtype": dtype, "device": device}
        inner = heads * head_dim
        self.heads = heads
        self.norm_features = operations.LayerNorm(width, **options)
        self.norm_latents = operations.LayerNorm(width, **options)
        self.to_q = operations.Linear(width, inner, bias=False, **options)
        self.to_k = operations.Linear(width, inner, bias=False, **options)
        self.to_v = operations.Linear(width, inner, bias=False, **options)
        self.to_out = operations.Linear(inner, width, bias=False, **options)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm_latents(latents)
        context = torch.cat([self.norm_features(features), latents], dim=1)
        q, k, v = (
            tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tensor in (self.to_q(latents), self.to_k(context), self.to_v(context))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two-layer MLP with GELU."""

    def __init__(
        self,
        width: int,
        mult: int,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        options = {"dtype": dtype, "device": device}
        self.norm = operations.LayerNorm(width, **options)
        self.up = operations.Linear(width, width * mult, bias=False, **options)
        self.down = operations.Linear(width * mult, width, bias=False, **options)

    def forward(self, latents: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(latents))))


class ResamplerLayer(nn.Module):
    """One residual step: look at the features, then think."""

    def __init__(self, width: int, heads: int, head_dim: int, ff_mult: int, **build: Any) -> None:
        super().__init__()
        self.attention = FeatureAttention(width, heads, head_dim, **build)
        self.mlp = FeedForward(width, ff_mult, **build)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        latents = latents + self.attention(features, latents)
        return latents + self.mlp(latents)


class Resampler(nn.Module):
    """Features (B, L, feature_dim) to nested tokens (B, tokens, token_dim)."""

    def __init__(
        self,
        *,
        feature_dim: int,
        tokens: int,
        token_dim: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        ff_mult: int,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        options = {"dtype": dtype, "device": device}
        build = {"operations": operations, **options}
        self.feature_dim = feature_dim
        self.queries = nn.Parameter(torch.empty(1, tokens, width, **options))
        nn.init.normal_(self.queries, std=width**-0.5)
        self.proj_in = operations.Linear(feature_dim, width, **options)
        self.layers = nn.ModuleList(
            ResamplerLayer(width, heads, head_dim, ff_mult, **build) for _ in range(depth)
        )
        self.proj_out = operations.Linear(width, token_dim, **options)
        self.norm_out = operations.LayerNorm(token_dim, **options)

    def forward(self, features: Tensor) -> Tensor:
        """Raises NestedAttentionError for features of another backbone's shape."""
        if features.ndim != 3 or features.shape[-1] != self.feature_dim or not features.shape[1]:
            raise NestedAttentionError(
                f"The image features have shape {tuple(features.shape)}; this encoder needs "
                f"(images, patches, {self.feature_dim}), so load the CLIP Vision model that it "
                "was trained with."
            )
        projected = self.proj_in(features)
        latents = self.queries.to(projected).expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(projected, latents)
        return self.norm_out(self.proj_out(latents))
