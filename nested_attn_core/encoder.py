"""The nested encoder: image features to nested tokens, and those to keys and values per site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .errors import NestedAttentionError
from .projections import BLOCKS, NestedProjections, Site
from .resampler import Resampler

__all__ = ["EncoderConfig", "NestedEncoder", "Site"]


# Far above any real encoder; a file that asks for more would only tie up the machine.
_LARGEST = {"depth": 256, "ff_mult": 256}
_LARGEST_SIZE = 1 << 16
_MOST_SITES = 1024


@dataclass(frozen=True)
class EncoderConfig:
    """Every size of an encoder.

    feature_dim  width of the image backbone's features
    tokens       number of nested tokens per image
    token_dim    width of a nested token (the text context's width in the paper's set-up)
    width, depth, heads, head_dim, ff_mult   sizes of the resampler
    sites        the cross-attentions of the base model
    """

    feature_dim: int
    tokens: int
    token_dim: int
    width: int
    depth: int
    heads: int
    head_dim: int
    ff_mult: int
    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "sites":
                _check_size(field.name, getattr(self, field.name))
        if not self.sites:
            raise NestedAttentionError(
                "The encoder names no cross-attention site; give it the sites of its base model."
            )
        if len(self.sites) > _MOST_SITES:
            raise NestedAttentionError(
                f"The encoder names {len(self.sites)} cross-attention sites; no base model known "
                f"has more than {_MOST_SITES}, so get the file again."
            )
        for site in self.sites:
            _check_site(site)
        if len({site.key for site in self.sites}) != len(self.sites):
            raise NestedAttentionError("The encoder names a site twice; name each site once.")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        return {**asdict(self), "sites": [asdict(site) for site in self.sites]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderConfig:
        """Inverse of to_dict; raises NestedAttentionError for missing or senseless sizes."""
        try:
            sites = tuple(
                Site(**{field.name: site[field.name] for field in fields(Site)})
                for site in data["sites"]
            )
            sizes = {field.name: data[field.name] for field in fields(cls)}
        except (KeyError, TypeError) as error:
            raise NestedAttentionError(
                f"The encoder's configuration cannot be read ({error}); get the file again."
            ) from error
        return cls(**{**sizes, "sites": sites})


class NestedEncoder(nn.Module):
    """Resampler and projections. Every Linear and LayerNorm comes from `operations`."""

    def __init__(
        self,
        config: EncoderConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        build = {"operations": operations, "dtype": dtype, "device": device}
        self.config = config
        sizes = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "sites"}
        self.resampler = Resampler(**sizes, **build)
        self.projections = NestedProjections(config.sites, config.token_dim, **build)

    def forward(self, features: Tensor) -> Tensor:
        """Image features (B, L, feature_dim) to nested tokens (B, tokens, token_dim)."""
        return self.resampler(features)

    def keys_values(self, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Nested tokens (B, n, token_dim) to {site name: (keys, values)}, each (B, n, width)."""
        return self.projections(tokens)


def _check_size(name: str, size: Any) -> None:
    largest = _LARGEST.get(name, _LARGEST_SIZE)
    if type(size) is not int or not 1 <= size <= largest:
        raise NestedAttentionError(
            f"The encoder's {name} is {size!r}; it must be a whole number from 1 to {largest}."
        )


def _check_site(site: Site) -> None:
    if site.block not in BLOCKS:
        raise NestedAttentionError(
            f"The encoder names a site in the block {site.block!r}; known are {', '.join(BLOCKS)}."
        )
    for name in ("number", "index"):
        value = getattr(site, name)
        if type(value) is not int or value < 0:
            raise NestedAttentionError(
                f"A site's {name} is {value!r}; it must be a whole number of at least 0."
            )
    _check_size(f"width at {site.name}", site.width)
