"""Groups of cross-attention sites by the resolution that they work at, and weights for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from .errors import NestedAttentionError


@dataclass(frozen=True)
class LayerWeights:
    """What multiplies a subject's strength at the sites of each group; 1 = as trained, 0 = off.

    coarse  the sites of the lowest resolution
    fine    those of the highest
    middle  all between; models whose sites have two resolutions have none
    """

    coarse: float = 1.0
    middle: float = 1.0
    fine: float = 1.0

    def __post_init__(self) -> None:
        for group in GROUPS:
            weight = getattr(self, group)
            if not (math.isfinite(weight) and weight >= 0):
                raise NestedAttentionError(
                    f"The weight of the {group} layers is {weight}; give a finite number of at "
                    "least 0."
                )

    def times(self, other: LayerWeights) -> LayerWeights:
        """Both, one after the other."""
        return LayerWeights(*(getattr(self, name) * getattr(other, name) for name in GROUPS))

    def of(self, group: str) -> float:
        """The weight of one of GROUPS."""
        return getattr(self, group)

    @property
    def all_off(self) -> bool:
        return not any(getattr(self, group) for group in GROUPS)


GROUPS = tuple(field.name for field in fields(LayerWeights))


def layer_groups(reductions: Mapping[str, int]) -> dict[str, str]:
    """The group of each site, from how many times smaller than the latent its map is.

    Sites of a model with a single resolution are all "middle".
    """
    sizes = sorted(set(reductions.values()))
    if len(sizes) < 2:
        return dict.fromkeys(reductions, "middle")
    names = {sizes[0]: "fine", sizes[-1]: "coarse"}
    return {site: names.get(size, "middle") for site, size in reductions.items()}
