"""Nested tokens to nested keys and values: one pair of linear maps per cross-attention site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import NestedAttentionError

BLOCKS = ("input", "middle", "output")


@dataclass(frozen=True)
class Site:
    """One cross-attention of the denoiser: `block`, `number` of the block, `index` of the
    transformer inside it (the host's key for patches), and inner `width` (all heads)."""

    block: str
    number: int
    index: int
    width: int

    @property
    def name(self) -> str:
        """For example "input.4.0"."""
        return f"{self.block}.{self.number}.{self.index}"

    @property
    def key(self) -> tuple[str, int, int]:
        """The host's key for a patch at this site."""
        return self.block, self.number, self.index


class SiteProjection(nn.Module):
    """Nested tokens (B, n, token_dim) to nested keys and values, each (B, n, width)."""

    def __init__(
        self,
        token_dim: int,
        width: int,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.to_k = operations.Linear(token_dim, width, bias=False, dtype=dtype, device=device)
        self.to_v = operations.Linear(token_dim, width, bias=False, dtype=dtype, device=device)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k(tokens), self.to_v(tokens)


class NestedProjections(nn.Module):
    """A SiteProjection for each site, under the site's name ("input.4.0.to_k.weight")."""

    def __init__(self, sites: Sequence[Site], token_dim: int, **build: Any) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.token_dim = token_dim
        for site in self.sites:
            folder = _child(_child(self, site.block), str(site.number))
            folder.add_module(str(site.index), SiteProjection(token_dim, site.width, **build))

    def at(self, name: str) -> SiteProjection:
        """The projection of the site with that name; raises NestedAttentionError if none has."""
        if name not in (site.name for site in self.sites):
            raise NestedAttentionError(f"The encoder has no projection for the site {name}.")
        return self.get_submodule(name)  # type: ignore[return-value]

    def forward(self, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """tokens (B, n, token_dim) to {site name: (keys, values)}, each (B, n, site width)."""
        return {site.name: self.at(site.name)(tokens) for site in self.sites}

    @torch.no_grad()
    def init_from(self, site_weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Copies the base model's own (to_k, to_v) weights, (width, token_dim), for each site.

        Raises NestedAttentionError, and changes nothing, if a site is missing or does not fit.
        """
        for site in self.sites:
            if site.name not in site_weights:
                raise NestedAttentionError(
                    f"The base model has no cross-attention at {site.name}; build the encoder "
                    "from the sites of this model."
                )
            for weight in site_weights[site.name]:
                if tuple(weight.shape) != (site.width, self.token_dim):
                    raise NestedAttentionError(
                        f"The base model's projection at {site.name} has shape "
                        f"{tuple(weight.shape)}; the encoder needs "
                        f"{(site.width, self.token_dim)}."
                    )
        for site in self.sites:
            projection = self.at(site.name)
            key, value = site_weights[site.name]
            projection.to_k.weight.copy_(key)
            projection.to_v.weight.copy_(value)


def _child(module: nn.Module, name: str) -> nn.Module:
    # Module names may hold no dot, so a site's name becomes a path of modules.
    if name not in module._modules:
        module.add_module(name, nn.Module())
    return module.get_submodule(name)
