"""The image backbone's lesson: name a training identity's attributes, keep each patch's looks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Lesson(nn.Module):
    """forward(pixels (B, 3, s, s), patch targets (B, patches, d), labels) -> scalar loss.

    Each attribute is read by a learned query that attends over all tokens, so the tokens must carry
    it; the class token alone would leave the rest of them empty.
    """

    def __init__(self, tower: nn.Module, width: int, heads: Mapping[str, int], patch_dim: int):
        super().__init__()
        self.tower, self.names = tower, tuple(heads)
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(len(heads), width) * 0.05)
        self.key = nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in heads.values())
        self.patch = nn.Linear(width, patch_dim)

    def logits(self, tokens: Tensor) -> dict[str, Tensor]:
        tokens = self.norm(tokens)
        scores = self.queries @ self.key(tokens).mT / tokens.shape[-1] ** 0.5
        read = scores.softmax(-1) @ tokens
        named = zip(self.names, self.heads, strict=True)
        return {name: head(read[:, row]) for row, (name, head) in enumerate(named)}

    def forward(self, pixels: Tensor, patches: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        tokens = self.tower(pixels)
        logits = self.logits(tokens)
        loss = F.mse_loss(self.patch(self.norm(tokens[:, 1:])), patches)
        for name in self.names:
            if (labels[name] >= 0).any():
                share = (labels[name] >= 0).float().mean()
                loss = loss + share * F.cross_entropy(logits[name], labels[name], ignore_index=-1)
        return loss
