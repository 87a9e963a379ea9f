"""The miniature's base as a painter: prompts and seeds to pictures, in batches.

The same computation as the host's sampler "euler" with the scheduler "simple" and guidance, for
many prompts at once; a test holds it against the host's own nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pack
from stages.common import MODELS, STATE, core, tokenizer

BATCH = 16
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int = 10
    cfg: float = 3.0
    batch: int = BATCH


@dataclass(frozen=True)
class Painter:
    """unet on the host's class; text tower with its vocabulary; vae as the host has it; `about`
    says where the weights come from."""

    unet: nn.Module
    text: nn.Module
    vocabulary: Any
    vae: Any
    about: dict

    def context(self, captions: Sequence[str]) -> Tensor:
        """(n, 77, width)"""
        with torch.no_grad():
            return self.text(self.vocabulary.encode(captions, tokenizer()))

    def plain(self, noised: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """Velocity of the base without any subject."""
        noised = noised.contiguous(memory_format=torch.channels_last)
        return self.unet(noised, sigma * 1000, context=context, transformer_options={})

    def decode(self, latents: Tensor) -> Tensor:
        """(n, C, h, w) -> (n, H, W, 3) in 0..1"""
        parts = [self.vae.decode(part).cpu() for part in latents.split(BATCH)]
        return torch.cat(parts).clamp(0, 1)

    def coded(self, images: Tensor) -> Tensor:
        """Pictures (n, H, W, 3) once through the autoencoder: what the base could at best draw."""
        return self.decode(torch.cat([self.vae.encode(part).cpu() for part in images.split(BATCH)]))

    def draw(self, captions: Sequence[str], seeds: Sequence[int], how: Sampling) -> Tensor:
        """(n, H, W, 3) in 0..1; a seed gives the noise that the host's KSampler draws from it."""
        positive, negative = self.context(captions), self.context([""])
        parts = []
        for start in range(0, len(seeds), how.batch):
            rows = slice(start, start + how.batch)
            latents = sample(self.plain, positive[rows], negative, noise(seeds[rows]), how)
            parts.append(self.decode(latents))
        return torch.cat(parts)


def noise(seeds: Sequence[int]) -> Tensor:
    """(n, 16, 16, 16), row by row what the host draws for one picture of that seed."""
    shape = (1, core("training.miniature.config").LATENT_CHANNELS, 16, 16)
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(drawn)


def sigmas(steps: int) -> list[float]:
    """The scheduler "simple" of a rectified flow: every n-th of 1000 even levels, then 0."""
    return [(1000 - int(step * 1000 / steps)) / 1000 for step in range(steps)] + [0.0]


@torch.no_grad()
def sample(
    denoise: Denoise, positive: Tensor, negative: Tensor, latents: Tensor, how: Sampling
) -> Tensor:
    """Euler's method from noise to latents; rows of both guidances go through in one call."""
    count = len(latents)
    context = torch.cat([positive, negative.expand(count, -1, -1)])
    levels = sigmas(how.steps)
    for level, following in zip(levels, levels[1:], strict=False):
        velocity = denoise(torch.cat([latents] * 2), torch.full((2 * count,), level), context)
        with_prompt, without = velocity.chunk(2)
        guided = without + how.cfg * (with_prompt - without)
        latents = latents + (following - level) * guided
    return latents


def shipped(path: Path | None = None) -> Painter:
    """The painter of models/miniature.safetensors, or of another such file."""
    miniature = pack.module("nodes.host.miniature")
    path = path or miniature.FILE
    parts, about = miniature.read(path)
    vocabulary = core("training.miniature.vocabulary").Vocabulary(about["token_ids"])
    text = core("training.miniature.clip_layout").TextTower(about["text"], len(vocabulary))
    text.load_state_dict(parts["text"])
    unet = miniature.model_from(parts["unet"], about["unet"]).model.diffusion_model
    vae = miniature.vae_from(parts["vae"], about["vae"])
    return _painter(unet, text, vocabulary, vae, {"weights": path.name})


def of_training(path: Path) -> Painter:
    """The painter of a training's state (…/base/state.pt, or a copy with code.pt beside it)."""
    from stages import base

    load = core("training.checkpoints").load_state
    state, code = load(path), load(path.parent / "code.pt") or load(base.CODE)
    if state is None or code is None:
        raise SystemExit(f"{path} or code.pt beside it is missing; name a base's state.pt.")
    vocabulary = core("training.miniature.vocabulary").Vocabulary(code["token_ids"].tolist())
    model = base.build(len(vocabulary), 0)
    model.load_state_dict(state["averaged"], strict=False)
    about = {"weights": "training", "step": state["step"], "loss": round(state["loss"], 4)}
    return _painter(model.unet, model.text, vocabulary, _vae_of_training(), about)


def _vae_of_training() -> Any:
    """The autoencoder as far as it is trained, else the shipped one."""
    miniature = pack.module("nodes.host.miniature")
    sizes = core("training.miniature.config").VAE
    state = core("training.checkpoints").load_state(STATE / "autoencoder" / "state.pt")
    if state is not None:
        return miniature.vae_from(dict(state["averaged"]), sizes)
    parts, about = miniature.read(MODELS / "miniature.safetensors")
    return miniature.vae_from(parts["vae"], about["vae"])


def _painter(unet: nn.Module, text: nn.Module, vocabulary, vae, about: dict) -> Painter:
    unet = unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return Painter(unet, text.requires_grad_(False).eval(), vocabulary, vae, about)


def open_painter(path: Path | None) -> Painter:
    """A painter from the shipped file (None), another such file, or a training's state."""
    if path is not None and path.suffix == ".pt":
        return of_training(path)
    return shipped(path)
