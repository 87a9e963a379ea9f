"""One forward pass of a training: from a batch to one loss a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .batches import Batch
from .methods import Method
from .objective import NoiseSchedule, Noising, target


class Denoiser(Protocol):
    """The frozen base with the method's patch on every site."""

    schedule: NoiseSchedule

    def __call__(
        self,
        noised: Tensor,
        sigma: Tensor,
        context: Tensor,
        items: Mapping[str, Sequence[Any]],
        conditions: Mapping[str, Tensor],
    ) -> Tensor:
        """The base's raw output (B, C, h, w), fp32."""
        ...


class ExtraLoss(Protocol):
    """A loss on the predicted clean latents, beside that of the denoiser."""

    def __call__(self, predicted: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """Latents (B, C, h, w) as predicted and as they are, sigma (B,) -> (B,)"""
        ...


class TrainingStep(nn.Module):
    """The method, and the frozen base around it; only the method's parameters are in here.

    forward gives one loss a sample: the squared error of the base's output, in its own terms,
    weighed by noise level and by place.
    """

    def __init__(
        self,
        method: Method,
        denoiser: Denoiser,
        noising: Noising | None = None,
        mask_weight: float = 0.0,
        extra: ExtraLoss | None = None,
    ):
        super().__init__()
        self.method = method
        self.noising = noising or Noising()
        self.mask_weight = mask_weight
        # A tuple hides a frozen model from parameters(), state_dict() and what wraps this module.
        self._frozen = (denoiser, extra)

    @property
    def schedule(self) -> NoiseSchedule:
        """The frozen base's."""
        return self._frozen[0].schedule

    def forward(self, batch: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
        """sigma (B,) and noise like the latents, fp32 -> (B,)"""
        denoiser, extra = self._frozen
        batch = self.method.read(batch)
        schedule = self.schedule
        noised = schedule.noise_scaling(sigma, noise, batch.latents)
        injection = self.method(batch.features, batch.context, batch.positions)
        output = denoiser(noised, sigma, injection.context, injection.sites, batch.conditions)
        error = (output - target(schedule, sigma, noised, batch.latents)).square()
        losses = _mean_over_places(error, batch.mask, self.mask_weight)
        weights = self.noising.weights(schedule, sigma)
        if weights is not None:
            losses = losses * weights
        if extra is not None:
            predicted = schedule.calculate_denoised(sigma, output, noised)
            losses = losses + extra(predicted, batch.latents, sigma)
        return losses if losses.requires_grad else losses + self._nothing()

    def _nothing(self) -> Tensor:
        """0 that depends on every weight: where no row has a subject, gradients are 0, not none,
        so that processes which wait for each other's gradients get them."""
        weights = [p.sum() for p in self.method.parameters() if p.requires_grad]
        return torch.stack(weights).sum() * 0.0


def _mean_over_places(error: Tensor, mask: Tensor | None, weight: float) -> Tensor:
    """(B, C, h, w) -> (B,): the subject's places count 1 + weight, and a sample as a whole 1."""
    places = error.mean(1)
    if mask is None or weight == 0:
        return places.flatten(1).mean(1)
    weights = (1 + weight * mask.to(error)[:, 0]).expand_as(places)
    return (places * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch in fp32 on the device; positions stay where reading them waits for nothing."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, torch.float32, non_blocking=True)

    return Batch(
        latents=move(batch.latents),
        context=move(batch.context),
        positions=batch.positions.cpu(),
        features=move(batch.features),
        conditions={name: move(value) for name, value in batch.conditions.items()},
        mask=None if batch.mask is None else move(batch.mask),
        captions=batch.captions,
    )
