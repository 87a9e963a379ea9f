"""The ruler at work: pictures to answers and to identity embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.common import MODELS, core


@dataclass(frozen=True)
class Reader:
    """`ruler` and its accuracy by head on real held-out pictures (empty where it is not known)."""

    ruler: Any
    accuracy: dict[str, float]

    @torch.no_grad()
    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """Images (n, H, W, 3) in 0..1 -> class by head, int64 (n,)."""
        parts = [self.ruler(as_input(part)) for part in images.split(64)]
        return {head: torch.cat([p[head].argmax(-1) for p in parts]) for head in self.ruler.names}

    def embed(self, images: Tensor, domain: str) -> Tensor:
        """Identity embeddings (n, d), unit length."""
        return torch.cat([self.ruler.embed(as_input(p), domain) for p in images.split(64)])


def as_input(images: Tensor) -> Tensor:
    """(n, H, W, 3) in 0..1 -> what the ruler reads"""
    return images.movedim(-1, 1) * 2 - 1


def stack(pictures: Sequence[Any]) -> Tensor:
    """Rendered pictures -> (n, H, W, 3) in 0..1"""
    return torch.from_numpy(np.stack([np.asarray(p.image) for p in pictures])).float() / 255


def open_reader(path: Path | None = None) -> Reader:
    """The reader of models/ruler.safetensors, or of another such file."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = path or MODELS / "ruler.safetensors"
    heads = core("training.miniature.attributes").heads()
    with safe_open(str(path), "pt") as file:
        accuracy = json.loads((file.metadata() or {}).get("accuracy", "{}"))
    ruler = core("evaluation.ruler").Ruler(heads, accuracy)
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(str(path)).items()}
    try:
        ruler.load_state_dict(state)
    except RuntimeError as error:
        raise SystemExit(
            f"{path.name} reads other attributes than this world has; train it: dev.py train ruler."
        ) from error
    return Reader(ruler.eval(), accuracy)
