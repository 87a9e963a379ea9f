"""How many queries a threshold leaves out in images of the miniature, and what that changes.

A subject's share of a query is its outer probability with the token weight, the largest over heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import start_costs

import pack

THRESHOLDS = (0.01, 0.05, 0.1, 0.2)
PROMPTS = {
    "person": "a <subject> smiling in a red shirt, beach",
    "kitten": "a <subject> with wide eyes on the left, forest",
    "robot": "a <subject> grinning far away, city",
}


class Watched:
    """The attention of all sites with a threshold; notes the shares while it is 0."""

    def __init__(self) -> None:
        self.threshold = 0.0
        self.shares: list[Any] = []
        self._attend = pack.module("nested_attn_core.attention").nested_attention
        self._probability = pack.module("nested_attn_core.outer_attention").column_probability

    def __call__(
        self, base: Any, query: Any, key: Any, value: Any, subjects: Any, heads: int
    ) -> Any:
        if self.threshold == 0:
            for subject in subjects:
                self._note(query, key, subject, heads)
        limited = [replace(subject, threshold=self.threshold) for subject in subjects]
        return self._attend(base, query, key, value, limited, heads)

    def _note(self, query: Any, key: Any, subject: Any, heads: int) -> None:
        rows = (subject.positions >= 0).any(1)
        if bool(rows.any()):
            index = subject.positions[rows].clamp_min(0)
            share = self._probability(query[rows], key[rows], index, heads)
            weight = subject.token_weight
            share = weight * share / (1 + (weight - 1) * share)
            self.shares.append(share.amax((2, 3)).flatten())


def shares(steps: int) -> Iterator[dict[str, Any]]:
    """A row for each shipped encoder and threshold; needs PyTorch's inference mode or no_grad."""
    import torch

    miniature = pack.module("nodes.host.miniature").load_miniature()
    for name, prompt in PROMPTS.items():
        watched = Watched()
        draw = _drawing(miniature, name, prompt, steps, watched)
        exact = draw()
        found = torch.cat(watched.shares)
        for threshold in THRESHOLDS:
            watched.threshold = threshold
            yield {
                "encoder": name,
                "steps": steps,
                "threshold": threshold,
                "left_out": float((found <= threshold).float().mean()),
                "largest_pixel_error": float((draw() - exact).abs().max()),
            }


def _drawing(miniature: Any, name: str, prompt: str, steps: int, watched: Watched) -> Any:
    """Draws the prompt with the first shipped reference of the encoder: pixels (1, H, W, 3)."""
    path = Path(pack.ROOT, "models", f"{name}.safetensors")
    encoder = pack.module("nodes.host.memory").load(path, name)
    reference = pack.module("nodes.host.vision").image_features(
        miniature.clip_vision, encoder, _picture(name)
    )
    subject = encoder.subject("subject", reference)
    subjects = pack.module("nested_attn_core.subject").Subjects((subject,))
    clip = pack.module("nodes.host.text").bind_clip(miniature.clip, subjects)
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "")
    )
    model = pack.module("nodes.host.binding").bind_model(miniature.model, subjects)
    patches = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    for place, patch in patches.items():
        patches[place] = type(patch)(patch.site, patch.previous, attend=watched)
    channels = miniature.model.model.latent_format.latent_channels

    def draw() -> Any:
        size = (16, 16)
        latent = start_costs.sample(model, positive, negative, size, steps, channels=channels)
        return miniature.vae.decode(latent)

    return draw


def _picture(name: str) -> Any:
    import numpy
    import torch
    from PIL import Image

    path = min(Path(pack.ROOT, "models", "references", name).glob("*.png"))
    with Image.open(path) as file:
        return torch.from_numpy(numpy.array(file.convert("RGB"))).float()[None] / 255
