"""The ruler: a small convolutional network that reads identity attributes and scene off a picture.

It only scores; no encoder and no base is trained against it, so that a score stays independent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 384


def _module_name(head: str) -> str:
    """Modules cannot have a dot in their name; "person.eyes" and "person:eyes" stay apart."""
    return head.replace(".", "__")


class ResidualBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.skip = (
            nn.Conv2d(inner, outer, 1, stride, bias=False)
            if stride > 1 or inner != outer
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(inner)) + self.skip(x))


class Ruler(nn.Module):
    """forward(images (B, 3, 128, 128) in -1..1) -> logits by head name.

    heads: head name -> number of classes; identity heads are "domain.attribute", others free names.
    accuracy: head name -> share read rightly on real pictures of held-out subjects; embeddings
    leave out an attribute that is read less than twice as well as by chance, since it is noise.
    """

    def __init__(self, heads: Mapping[str, int], accuracy: Mapping[str, float] | None = None):
        super().__init__()
        known = accuracy or {}
        self.readable = {n for n, count in heads.items() if known.get(n, 1.0) >= 2 / count}
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            ResidualBlock(32, 64, 2),
            ResidualBlock(64, 64, 1),
            ResidualBlock(64, 128, 2),
            ResidualBlock(128, 128, 1),
            ResidualBlock(128, 192, 2),
            nn.AdaptiveAvgPool2d(8),
            nn.Conv2d(192, 64, 1),
            nn.Flatten(),
            nn.Linear(64 * 64, FEATURES),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {_module_name(name): nn.Linear(FEATURES, n) for name, n in heads.items()}
        )
        self.names = tuple(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {name: self.heads[_module_name(name)](features) for name in self.names}

    @torch.no_grad()
    def embed(self, images: Tensor, domain: str) -> Tensor:
        """Identity embedding (B, classes of the domain's attributes), unit length: the
        readable attributes' probabilities side by side."""
        logits = self(images)
        names = [n for n in self.names if n.startswith(f"{domain}.") and n in self.readable]
        parts = [logits[n].softmax(-1) for n in names]
        return F.normalize(torch.cat(parts, -1), dim=-1)
