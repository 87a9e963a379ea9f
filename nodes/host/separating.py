"""Keeping subjects apart on a model: where the settings travel, and bounded self-attention.

The settings lie in the clone's own options. Self-attention is replaced in the options of one model
call only, so that it is found in whatever state other packs have left it, and nothing of it is
there when the call is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from comfy.ldm.modules import attention as host_attention
from torch import Tensor

from ...nested_attn_core.bounded import bounded_attention
from ...nested_attn_core.separation import Separation
from .patch import PLAN, NestedPlan, site_size

SEPARATION = "nested_attention_separation"

log = logging.getLogger("nested_attention")


def separated(model: Any, separation: Separation) -> Any:
    """A clone of a host MODEL whose subjects are kept apart, whatever was set before."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[SEPARATION] = separation
    return clone


def separation_of(options: Mapping[str, Any]) -> Separation | None:
    """The settings among the transformer options of a model call; None where they are off."""
    separation = options.get(SEPARATION)
    return None if separation is None or separation.off else separation


def bounded_self_attention(
    options: Mapping[str, Any], keys: Iterable[tuple[str, int, int]]
) -> dict[str, Any]:
    """Transformer options of one model call in which self-attention is bounded at all sites.

    What another pack put there, on a site or on its whole block, is called below.
    """
    replaced = options.get("patches_replace", {})
    attn1 = dict(replaced.get("attn1", {}))
    below = {key: attn1.get(key) or attn1.get(key[:2]) for key in keys}
    attn1.update(
        {key: BoundedPatch(patch) if patch else _ON_THE_HOST for key, patch in below.items()}
    )
    return {**options, "patches_replace": {**replaced, "attn1": attn1}}


class BoundedPatch:
    """Replaces the self-attention of one site: ``previous`` (or the host's), bounded by what the
    call's plan has seen of the subjects' places."""

    def __init__(self, previous: Callable[..., Tensor] | None = None):
        self.previous = previous

    # What happens here depends on the plan of each call; a compiled model calls it as it is.
    @torch.compiler.disable
    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, extra_options: dict[str, Any]
    ) -> Tensor:
        """Attention output (B, N, inner) for query, key and value (B, N, inner)."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return host_attention.optimized_attention(
                q,
                k,
                v,
                extra_options["n_heads"],
                attn_precision=extra_options.get("attn_precision"),
                transformer_options=extra_options,
            )

        if self.previous is None:
            base = attend(query, key, value)
        else:
            base = self.previous(query, key, value, extra_options)
        plan: NestedPlan | None = extra_options.get(PLAN)
        size = site_size(extra_options)
        if plan is None or plan.claims is None or size is None:
            return base
        if query.shape != key.shape or query.shape[:2] != (plan.rows, size[0] * size[1]):
            _tell(plan)
            return base
        labels = plan.claims.labels(size)
        if labels is None:
            return base
        return bounded_attention(base, query, key, value, labels, attend, self.previous is None)


# One for all calls: a compiled model would take a new one for another function.
_ON_THE_HOST = BoundedPatch()


def _tell(plan: NestedPlan) -> None:
    if SEPARATION in plan.told:
        return
    plan.told.add(SEPARATION)
    log.warning(
        "Another extension rearranges self-attention, so that the places of the subjects are not "
        "known in it; there it is not bounded."
    )
