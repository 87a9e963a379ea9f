"""Training a method's encoder on a frozen base.

Reference and target are different pictures of one subject, so that copying does not help.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from .methods import Method


class Denoiser(Protocol):
    """The frozen base with a method's patch on every site, as the host side provides it."""

    def __call__(
        self,
        noised: Tensor,
        sigma: Tensor,
        context: Tensor,
        items: Mapping[str, Sequence[Any]],
    ) -> Tensor:
        """Velocity for noised (B, C, h, w), sigma (B,), context (B, T, d), items by site."""
        ...


class TextEncoder(Protocol):
    def __call__(self, tokens: Tensor) -> Tensor:
        """Token rows (B, T) to context (B, T, d)."""
        ...


@dataclass(frozen=True)
class SubjectPictures:
    """What one domain's encoder learns from.

    features   (n, L, feature_dim) of the image backbone, for every picture (rows of pairs unused)
    latents    (n, C, h, w); tokens (n, T) rows of captions that name the subject by class word only
    positions  (n,) int64, the class word's place in the caption, -1 where the domain is absent
    identity   one key a picture for the domain's subject, None where it is absent
    reference  bool a picture: shows that subject alone, so that it may serve as reference
    """

    features: Tensor
    latents: Tensor
    tokens: Tensor
    positions: Tensor
    identity: Sequence[str | None]
    reference: Sequence[bool]
    noise_shift: float = 0.6
    size: int = 32

    @cached_property
    def references(self) -> dict[str, list[int]]:
        """Rows that may serve as reference, by identity."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, (key, alone) in enumerate(zip(self.identity, self.reference, strict=True)):
            if key is not None and alone:
                found[key].append(row)
        return found

    @cached_property
    def targets(self) -> list[tuple[int, str]]:
        """(row, identity) of every picture whose subject has another picture to learn from."""
        return [
            (row, key)
            for row, key in enumerate(self.identity)
            if key is not None and any(other != row for other in self.references[key])
        ]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of targets and of references, (size,) each; a picture is never its own reference."""
        rows, chosen = [], []
        for pick in torch.randint(0, len(self.targets), (self.size,), generator=generator).tolist():
            row, key = self.targets[pick]
            others = [other for other in self.references[key] if other != row]
            chosen.append(others[int(torch.randint(0, len(others), (), generator=generator))])
            rows.append(row)
        return torch.tensor(rows), torch.tensor(chosen)


def loss(
    method: Method,
    pictures: SubjectPictures,
    denoise: Denoiser,
    text: TextEncoder,
    generator: torch.Generator,
) -> Tensor:
    """Rectified-flow error of the frozen base with the reference's subject in place.

    `denoise` applies the method's `attend`. The noise levels lean to the noisy side: there the
    subject's looks are decided.
    """
    target, reference = pictures.draw(generator)
    latents = pictures.latents[target].float()
    noise = torch.randn(latents.shape, generator=generator)
    sigma = (torch.randn(len(latents), generator=generator) + pictures.noise_shift).sigmoid()
    mix = sigma.view(-1, 1, 1, 1)
    noised = (1 - mix) * latents + mix * noise
    with torch.no_grad():
        context = text(pictures.tokens[target])
    injection = method(
        pictures.features[reference].float(), context, pictures.positions[target][:, None]
    )
    predicted = denoise(noised, sigma, injection.context, injection.sites)
    return (predicted - (noise - latents)).square().mean()
