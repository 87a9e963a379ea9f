"""Gradient checkpointing of a host UNet: activations inside a block are computed again backwards.

The host's own switch is of no use here: it asks for gradients of frozen weights, and leaves the
transformer blocks, which hold most of the activations, as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

OPTIONS = "transformer_options"


def checkpoint_blocks(diffusion_model: nn.Module) -> None:
    """Wraps every residual and every transformer block of a UNet, in place; once."""
    for module in diffusion_model.modules():
        if isinstance(module, (BasicTransformerBlock, ResBlock)) and "forward" not in vars(module):
            module.forward = _checkpointed(module.forward)


def release_blocks(diffusion_model: nn.Module) -> None:
    """Takes the wrappers off again."""
    for module in diffusion_model.modules():
        if isinstance(module, (BasicTransformerBlock, ResBlock)):
            vars(module).pop("forward", None)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        # The UNet writes into one dict where it is; by the backward pass that is elsewhere.
        if OPTIONS in kwargs:
            kwargs[OPTIONS] = dict(kwargs[OPTIONS])
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return call
