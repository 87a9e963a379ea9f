"""What a denoiser is asked to predict, in terms of the host's own description of its schedule.

For every prediction type that the host knows (epsilon, v, rectified flow, EDM), the clean picture
is an affine function of the denoiser's output, D(out) = D(0) + out * (D(1) - D(0)). The output that
would give the clean picture, (x0 - D(0)) / (D(1) - D(0)), is therefore the target of them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import NestedAttentionError

SIGMA_SAMPLING = ("uniform", "logit-normal")


class NoiseSchedule(Protocol):
    """The host's `model_sampling`."""

    sigmas: Tensor

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor: ...

    def calculate_denoised(
        self, sigma: Tensor, model_output: Tensor, model_input: Tensor
    ) -> Tensor: ...

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor) -> Tensor: ...

    def timestep(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Noising:
    """How noise levels are drawn and weighed.

    sampling  "uniform" over the schedule's steps, or "logit-normal": the sigmoid of a normal with
              mean `shift` and deviation `spread` is the place in the schedule, 1 = all noise
              (Esser et al. 2024, Sec. 3.1)
    min_snr   gamma of Min-SNR weighting (Hang et al. 2023); 0 weighs all levels alike
    """

    sampling: Literal["uniform", "logit-normal"] = "uniform"
    shift: float = 0.0
    spread: float = 1.0
    min_snr: float = 0.0

    def __post_init__(self) -> None:
        if self.sampling not in SIGMA_SAMPLING:
            raise NestedAttentionError(
                f'The noise levels are to be drawn "{self.sampling}"; choose '
                f"{' or '.join(SIGMA_SAMPLING)}."
            )

    def draw(self, schedule: NoiseSchedule, generators: Sequence[torch.Generator]) -> Tensor:
        """One sigma for each generator, fp32 on the CPU."""
        if self.sampling == "uniform":
            place = torch.cat([torch.rand(1, generator=g) for g in generators])
        else:
            normal = torch.cat([torch.randn(1, generator=g) for g in generators])
            place = (normal * self.spread + self.shift).sigmoid()
        levels = schedule.sigmas.detach().float().cpu()
        return levels[(place * len(levels)).long().clamp_max(len(levels) - 1)]

    def weights(self, schedule: NoiseSchedule, sigma: Tensor) -> Tensor | None:
        """What multiplies the squared error of the output at each sigma (B,), or None for 1."""
        if not self.min_snr:
            return None
        one, zero = (torch.full((len(sigma), 1, 1, 1), v, device=sigma.device) for v in (1.0, 0.0))
        signal = schedule.noise_scaling(sigma, zero.clone(), one.clone())
        noise = schedule.noise_scaling(sigma, one.clone(), zero.clone())
        _, slope = _affine(schedule, sigma, zero)
        ratio = (signal / noise.clamp_min(1e-6)).square()
        return (ratio.clamp_max(self.min_snr) * slope.square()).flatten()


def sample_generator(seed: int, number: int, purpose: str = "noise") -> torch.Generator:
    """Randomness of one sample, which depends on these three alone."""
    digest = hashlib.blake2b(f"{seed} {number} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise (B, *shape), one generator a row, fp32 on the CPU."""
    return torch.stack([torch.randn(*shape, generator=g) for g in generators])


def target(schedule: NoiseSchedule, sigma: Tensor, noised: Tensor, latents: Tensor) -> Tensor:
    """The denoiser's output that would give `latents`, all (B, C, h, w), for sigma (B,)."""
    offset, slope = _affine(schedule, sigma, noised)
    return (latents - offset) / slope


def _affine(schedule: NoiseSchedule, sigma: Tensor, noised: Tensor) -> tuple[Tensor, Tensor]:
    """D(0) and D(1) - D(0); the latter (B, 1, 1, 1) does not depend on the noised latents."""
    offset = schedule.calculate_denoised(sigma, torch.zeros_like(noised), noised)
    zero = torch.zeros((len(sigma), 1, 1, 1), device=noised.device)
    slope = schedule.calculate_denoised(sigma, torch.ones_like(zero), zero)
    return offset, slope
