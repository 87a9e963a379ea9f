"""The miniature's base model: text tower and UNet, trained together by rectified flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import wide_attention

UNKNOWN_SHARE, DROP_SHARE = 0.02, 0.1
# Shapes are decided where there is much noise, so that sigma leans to that side.
SIGMA_SHIFT = 0.5


def initialise(unet: nn.Module, seed: int) -> None:
    """Set the weights, which the host's classes leave unset.

    Fan-in uniform, norms at identity, the last layer of every residual branch at zero, so that
    the network starts as its skip path."""
    torch.manual_seed(seed)
    for name, module in unet.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is None or not isinstance(weight, nn.Parameter):
            continue
        last = name.endswith(("out_layers.3", "proj_out")) or name == "out.2"
        if weight.ndim == 1:
            nn.init.ones_(weight)
        elif last:
            nn.init.zeros_(weight)
        else:
            nn.init.kaiming_uniform_(weight, a=5**0.5)
        if bias is not None:
            nn.init.zeros_(bias)


def attend_in_fp32(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attention of (B, n, heads * d) in fp32, by torch's kernel: on a CPU it is quicker than what
    the host takes there, and quicker than in halves."""
    q, k, v = (
        each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value)
    )
    out = wide_attention.attend_in_fp32(F.scaled_dot_product_attention, q, k, v, mask)
    return out.transpose(1, 2).flatten(2)


class Base(nn.Module):
    """forward(latents (B, C, h, w), sigma (B,) in 0..1, token rows (B, 77)) -> velocity, fp32"""

    def __init__(self, unet: nn.Module, text: nn.Module):
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, latents: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        on_cpu = latents.device.type == "cpu"
        own = {"optimized_attention_override": attend_in_fp32} if on_cpu else {}
        context = self.text(tokens)
        velocity = self.unet(latents, sigma * 1000, context=context, transformer_options=own)
        return velocity.float()


@dataclass(frozen=True)
class Batches:
    """latents (n, C, h, w), tokens (n, 77) rows, told (n, 77) rows of the captions that also name
    each identity, which a share `telling` of the draws has, empty (77,) rows of the empty caption,
    weights (n, h, w) of the error and often (n,) of the draw: what is harder than the rest may
    count for more and come more often, which moves no optimum of a caption.
    """

    latents: Tensor
    tokens: Tensor
    told: Tensor
    empty: Tensor
    weights: Tensor
    often: Tensor
    telling: float = 0.8
    size: int = 32

    def loss(self, base: Base, generator: torch.Generator) -> Tensor:
        """Rectified flow: x_t = (1 - sigma) x + sigma n, target n - x, sigma logit-normal."""
        index = torch.multinomial(self.often, self.size, generator=generator)
        tells = torch.rand(self.size, 1, generator=generator) < self.telling
        latents = self.latents[index]
        tokens = torch.where(tells, self.told[index], self.tokens[index])
        flipped = torch.rand(tokens.shape, generator=generator) < UNKNOWN_SHARE
        tokens[flipped & (tokens > 2)] = 0
        tokens[torch.rand(self.size, generator=generator) < DROP_SHARE] = self.empty
        # Drawn on the CPU, so that a step draws the same on every device.
        noise = torch.randn(latents.shape, generator=generator)
        sigma = (torch.randn(self.size, generator=generator) + SIGMA_SHIFT).sigmoid()
        weights = self.weights[index].float()
        device = next(base.parameters()).device
        latents, tokens, noise, sigma, weights = (
            part.to(device) for part in (latents, tokens, noise, sigma, weights)
        )
        mix = sigma.view(-1, 1, 1, 1)
        noised = ((1 - mix) * latents + mix * noise).contiguous(memory_format=torch.channels_last)
        error = (base(noised, sigma, tokens) - (noise - latents)).square().mean(1)
        return (error * weights).sum() / weights.sum()
