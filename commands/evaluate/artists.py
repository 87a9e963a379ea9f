"""Methods with their weights, drawing held-out subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.sampling import Cast
from stages.common import MODELS, core

from .studios import Painter, in_batches

NAME = "anna"


@dataclass(frozen=True)
class Artist:
    """A trained method for one domain; its fingerprint is that of its weights."""

    name: str
    domain: str
    method: Any
    fingerprint: str

    def draw(
        self,
        painter: Painter,
        features: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
    ) -> Tensor:
        """Pictures (n, H, W, 3), 0 to 1, of subjects with features (n, L, d) that the prompts call
        <anna>; a prompt that does not name it has no subject."""
        studio = painter.studio

        def some(rows: slice) -> Tensor:
            texts = studio.read(prompts[rows], {NAME: self.domain})
            cast = Cast(self.method, features[rows], texts.positions[NAME], strength)
            return studio.draw(texts, seeds[rows], [cast], painter.how)

        return in_batches(len(seeds), some)


def nested(domain: str, path: Path | None = None) -> Artist:
    """The shipped encoder of a domain, or that of another file, with its own settings."""
    path = path or MODELS / f"{domain}.safetensors"
    if not path.is_file():
        raise SystemExit(
            f"There is no encoder {path.name}; train it: dev.py train encoder {domain}."
        )
    encoder, info = core("checkpoint").load_encoder(path, dtype=torch.float32)
    method = core("training.methods").NestedMethod(encoder, info.norm, info.token_weight)
    fingerprint = core("fingerprint").file_fingerprint(path)
    return Artist("nested", domain, method.eval(), fingerprint)


def nested_only(domain: str) -> list[Artist]:
    """The shipped encoder alone."""
    return [nested(domain)]
