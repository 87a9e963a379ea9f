"""The optimiser and its rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NestedAttentionError
from .adamw import adamw
from .muon import Muon


def rate_share(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """What step 0 to steps - 1 has of the highest rate: it rises over `warmup` steps, holds, and
    falls over the last `decay_share` of them."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, steps * decay_share))
    return rise * max(0.02, fall)


@dataclass(frozen=True)
class OptimiserSettings:
    """`name` is adamw, adamw8bit or muon; the rate rises over `warmup` steps, holds, and falls over
    the last `decay_share`."""

    name: str = "adamw"
    rate: float = 1e-4
    warmup: int = 100
    decay_share: float = 0.5
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0

    def rate_at(self, step: int, steps: int) -> float:
        """The rate of step 0 to steps - 1."""
        return self.rate * rate_share(step, steps, self.warmup, self.decay_share)


def make_optimiser(
    parameters: Sequence[nn.Parameter],
    settings: OptimiserSettings,
    layers: Sequence[Tensor] = (),
) -> torch.optim.Optimizer:
    """`layers`: those of the parameters that Muon is for (`muon.layer_weights`).

    Raises NestedAttentionError for an unknown name, where bitsandbytes is wanted and is not
    installed, and where muon is wanted and torch is too old for it."""
    options: dict[str, Any] = {
        "lr": settings.rate,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }
    if settings.name == "adamw":
        return adamw(parameters, **options)
    if settings.name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise NestedAttentionError(
                f"optimiser.name muon needs PyTorch 2.9 or newer, and this one is "
                f"{torch.__version__}; update it, or use adamw."
            )
        known = {id(weight) for weight in layers}
        others = [each for each in parameters if id(each) not in known]
        return Muon(layers, others, **options)
    if settings.name != "adamw8bit":
        raise NestedAttentionError(
            f'The optimiser "{settings.name}" is unknown; use adamw, adamw8bit or muon.'
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError as error:
        raise NestedAttentionError(
            "optimiser.name adamw8bit needs the package bitsandbytes, which is not installed; "
            "install it (pip install bitsandbytes), or use adamw."
        ) from error
    return bitsandbytes.optim.AdamW8bit(parameters, **options)
