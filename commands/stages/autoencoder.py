"""Trains the shipped autoencoder: the host's AutoencoderKL, taught the miniature's latents."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn import functional as F

from . import precision, shipped
from .base import decibels, encode_all, patch_code, pixels, take_shipped_code
from .common import STATE, core, device, host, log
from .data import held_out

# Of the held-out pictures, every so-manyth: of all domains, scenes and styles.
SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crop", type=int, default=8, help="latent side of a training crop")
    parser.add_argument("--batch", type=int, default=16, help="crops a step")
    parser.add_argument(
        "--whole-from", type=int, default=5000, help="step of the first whole picture"
    )
    precision.add_argument(parser)
    shipped.add_argument(parser)


def build(seed: int):
    config, base = core("training.miniature.config"), core("training.miniature.base")
    model = host("comfy.ldm.models.autoencoder").AutoencoderKL(**config.VAE)
    base.initialise(model, seed)
    precision.norms_in_fp32(model)
    return model.to(memory_format=torch.channels_last)


def crops(images, latents, size: int, batch: int, generator: torch.Generator):
    """Random crops, aligned to patches: pixels (B, 3, 8 s, 8 s) and their latents (B, C, s, s)."""
    side = latents.shape[-1]
    index = torch.randint(0, len(latents), (batch,), generator=generator).tolist()
    tops = torch.randint(0, side - size + 1, (batch, 2), generator=generator).tolist()
    x, z = [], []
    for i, (top, left) in zip(index, tops, strict=True):
        z.append(latents[i, :, top : top + size, left : left + size])
        x.append(images[i, top * 8 : (top + size) * 8, left * 8 : (left + size) * 8])
    return pixels(np.stack(x)), torch.stack(z)


@torch.no_grad()
def fidelity(model, images) -> float:
    """Decibels of pictures (n, H, W, 3), uint8, that went through the autoencoder, to themselves;
    latents are the encoder's means."""
    wanted, found = pixels(images), []
    for part in wanted.split(16):
        mean = model.quant_conv(model.encoder(part.to(device()))).chunk(2, 1)[0]
        found.append(model.decode(mean).clamp(-1, 1).cpu())
    return decibels(torch.cat(found), wanted)


def run(arguments: argparse.Namespace) -> None:
    loop = core("training.loop")
    images, _ = core("training.miniature.dataset").load(STATE / "data")
    if arguments.from_shipped:
        take_shipped_code()
    code = patch_code(images)
    latents = encode_all(code, images)
    model = build(arguments.seed)
    if arguments.from_shipped:
        shipped.copy_into(model, shipped.parts("vae"), prefixed=False)
    model.to(device())
    products = precision.chosen(arguments)
    log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {products}")
    mean_channels = latents.shape[1]

    @precision.mixed(products)
    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        size, batch = arguments.crop, arguments.batch
        if step >= arguments.whole_from:
            # The norms' statistics of a crop are not those of a picture; colours would drift.
            size, batch = latents.shape[-1], max(1, batch * size**2 // latents.shape[-1] ** 2)
        x, z = crops(images, latents, size, batch, generator)
        # The UNet's latents are never exact: the decoder learns to forgive a little noise.
        noisy = z + 0.06 * torch.randn(z.shape, generator=generator)
        x, z, noisy = (part.to(device()) for part in (x, z, noisy))
        decoded = model.decode(noisy.contiguous(memory_format=torch.channels_last)).float()
        edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        reconstruction = (decoded - x).abs().mean() + 0.5 * edges
        if step % 4:  # the encoder's task is far easier than the decoder's
            return reconstruction
        encoded = model.encoder(x.contiguous(memory_format=torch.channels_last))
        moments = model.quant_conv(encoded).float()
        mean, spread = moments[:, :mean_channels], moments[:, mean_channels:]
        return reconstruction + F.mse_loss(mean, z) + 1e-4 * (spread + 20).square().mean()

    averaged = loop.train(
        model,
        loss,
        loop.Schedule(steps=arguments.steps, rate=arguments.rate, seed=arguments.seed),
        STATE / "autoencoder",
        log,
    )
    model.load_state_dict(averaged, strict=False)  # buffers are not averaged
    shown = held_out()[0][::SHOWN]
    log(f"{len(shown)} held-out pictures come back with {fidelity(model, shown):.1f} dB")
