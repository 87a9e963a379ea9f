"""The identity loss: the predicted picture should show whom the target shows, to an embedder's eye.

It is optional. The paper is not known to use one; face adapters often do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NestedAttentionError
from .objective import NoiseSchedule

# Pictures (B, 3, H, W), 0 to 1, to embeddings (B, d); differentiable in the pictures.
Embedder = Callable[[Tensor], Tensor]


class IdentityLoss:
    """weight * (1 - cosine) between embeddings of the predicted and of the true picture.

    decode     latents (B, C, h, w) to pictures (B, 3, H, W), 0 to 1, differentiable
    max_noise  place in the schedule, 0 to 1, above which a prediction is too vague to judge
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        embed: Embedder,
        schedule: NoiseSchedule,
        weight: float,
        max_noise: float = 0.5,
    ):
        self._decode = decode
        self._embed = embed
        self._levels = schedule.sigmas.detach().float().cpu().sort().values
        self.weight = weight
        self.max_noise = max_noise

    def __call__(self, predicted: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """As step.ExtraLoss; 0 for rows above max_noise.

        The gradient is taken here and now, so that the decoder's activations are gone before the
        denoiser's backward pass; the value that is returned carries it."""
        rows = self._judged(sigma)
        losses = predicted.new_zeros(len(predicted))
        if not bool(rows.any()):
            return losses
        value, gradient = self._gradient(predicted[rows].detach(), latents[rows])
        moved = (predicted[rows] - predicted[rows].detach()) * gradient
        return losses.index_put((rows,), value + moved.flatten(1).sum(1))

    def _judged(self, sigma: Tensor) -> Tensor:
        place = torch.searchsorted(self._levels, sigma.detach().float().cpu())
        return (place <= self.max_noise * len(self._levels)).to(sigma.device)

    def _gradient(self, predicted: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self._embed(self._decode(latents))
        # The host's towers add in place to what autograd has kept.
        with torch.enable_grad(), torch.autograd.graph.allow_mutation_on_saved_tensors():
            leaf = predicted.clone().requires_grad_(True)
            shown = self._embed(self._decode(leaf))
            value = self.weight * (1 - F.cosine_similarity(shown.float(), wanted.float(), dim=-1))
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient


def embedder_of(name: str) -> Embedder:
    """The function that "module:function" names; raises NestedAttentionError where there is none.

    It takes pictures (B, 3, H, W), 0 to 1, on the training's device, and gives (B, d)."""
    module, colon, function = name.partition(":")
    try:
        if not colon:
            raise ImportError("there is no colon in it")
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise NestedAttentionError(
            f'objective.identity_embedder is "{name}", which cannot be imported ({error}); write '
            'it as "module:function", with the module on PYTHONPATH, or "backbone".'
        ) from error
    return found
