"""CLIP text and vision towers in the host's key layout, in a form that gradients pass through.

The host's own classes add residuals in place, which autograd refuses; these compute the same
function (tests hold them against the host), and the host loads their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..wide_attention import attend_in_fp32


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend_in_fp32(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = Attention(width, heads), Mlp(width, hidden)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        sizes = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        for layer in self.layers:
            x = layer(x, causal)
        return x


class TextTower(nn.Module):
    """Token rows (B, 77) of a compact vocabulary -> context (B, 77, width), all rows kept."""

    def __init__(self, config: dict, vocabulary: int):
        super().__init__()
        width = config["hidden_size"]
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], width)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(width)
        for table in (self.token_embedding, self.position_embedding):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.position_embedding.weight
        return self.final_layer_norm(self.encoder(x, causal=True))


class VisionTower(nn.Module):
    """Normalised pixels (B, 3, size, size) -> patch and class tokens (B, 1 + patches, width)."""

    def __init__(self, config: dict):
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        patches = (config["image_size"] // patch) ** 2
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(patches + 1, width)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.encoder = Layers(config)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.pre_layrnorm(x + self.position_embedding.weight)
        return self.encoder(x, causal=False)
