"""The attention replacement that sits on every site, and the plan that it reads in a model call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.ldm.modules import attention as host_attention
from torch import Tensor

from ...nested_attn_core.attention import nested_attention
from ...nested_attn_core.outer_attention import attention_with_normaliser
from ...nested_attn_core.separation import Claims
from ...nested_attn_core.site_subjects import SiteSubjects

PLAN = "nested_attention"
WATCH = "nested_attention_watch"

log = logging.getLogger("nested_attention")


class NestedPlan:
    """The subjects of one model call: ``rows`` of the batch, and what each site has to do.

    It travels in ``transformer_options[PLAN]``; gradients flow through it. ``claims`` is there
    where several subjects are kept apart.
    """

    def __init__(
        self, rows: int, subjects: Mapping[str, Sequence[Any]], claims: Claims | None = None
    ):
        self.rows = rows
        self.claims = claims
        self.told_of_rows = False
        self.told: set[str] = set()
        self._subjects = subjects

    def at(
        self, site_name: str, size: tuple[int, int] | None = None, tokens: int | None = None
    ) -> Sequence[Any]:
        """What happens at the site whose feature map has ``size`` (height, width), and whose keys
        are ``tokens`` many."""
        return self._subjects.get(site_name, ())

    def left_out(self, site_name: str, rows: int) -> None:
        """Says, once, that a site with another number of ``rows`` goes without subjects."""
        if self.told_of_rows:
            return
        self.told_of_rows = True
        log.warning(
            "Another extension runs attention on %d rows where the model call has %d, "
            "so that subjects cannot be told apart there and are left out.",
            rows,
            self.rows,
        )


class NestedPatch:
    """Replaces the attention of one site: ``previous`` (or the host's), plus the nested term.

    Without a plan, or with nothing live in it, the result is that of ``previous``, bit for bit.
    ``attend`` is what the plan's items mean; only training and evaluation give another one.
    """

    def __init__(
        self,
        site: str,
        previous: Callable[..., Tensor] | None = None,
        added: tuple[tuple[Callable[..., Tensor], dict[str, Any]], ...] = (),
        attend: Callable[..., Tensor] = nested_attention,
    ):
        self.site = site
        self.previous = previous
        self._added = added
        self._attend = attend

    # What happens here depends on the plan of each call; a compiled model calls it as it is.
    @torch.compiler.disable
    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, extra_options: dict[str, Any]
    ) -> Tensor:
        """Attention output (B, N, inner) for query (B, N, inner) and key, value (B, T, inner)."""
        subjects = _subjects_at(self.site, query, key, extra_options)
        heads = extra_options["n_heads"]
        watch = extra_options.get(WATCH)
        if subjects and watch is not None:
            watch.see(self.site, query, key, subjects, extra_options)
        known = None
        if subjects and self._attend is nested_attention and self._is_plain(extra_options):
            known = attention_with_normaliser(query, key, value, heads)
        if known is not None:
            # One pass gives the host's own output and what the subjects' shares are read from.
            out = nested_attention(known[0], query, key, value, subjects, heads, known[1], True)
        else:
            out = self._base(query, key, value, extra_options)
            if subjects:
                out = self._attend(out, query, key, value, subjects, heads)
        for callback, options in self._added:
            if _within(options, extra_options):
                out = out + callback(out, query, key, value, extra_options, **options)
        return out.to(query.dtype)

    def _is_plain(self, extra_options: Mapping[str, Any]) -> bool:
        """Whether the attention below is PyTorch's own, through the host's function for it."""
        return (
            self.previous is None
            and host_attention.optimized_attention is host_attention.attention_pytorch
            and "optimized_attention_override" not in extra_options
        )

    def _base(
        self, query: Tensor, key: Tensor, value: Tensor, extra_options: dict[str, Any]
    ) -> Tensor:
        if self.previous is not None:
            # A patch of ours further down must not apply the same plan a second time.
            below = {name: item for name, item in extra_options.items() if name != PLAN}
            return self.previous(query, key, value, below)
        return host_attention.optimized_attention(
            query,
            key,
            value,
            extra_options["n_heads"],
            attn_precision=extra_options.get("attn_precision"),
            transformer_options=extra_options,
        )

    def over(self, previous: Callable[..., Tensor]) -> NestedPatch:
        """The same patch on top of ``previous``."""
        return NestedPatch(self.site, previous, self._added, self._attend)

    def copy(self) -> NestedPatch:
        """A copy that shares everything, for a clone of the model."""
        return NestedPatch(self.site, self.previous, self._added, self._attend)

    def __deepcopy__(self, memo: dict[int, Any]) -> NestedPatch:
        return self.copy()

    def add(self, callback: Callable[..., Tensor], **options: Any) -> None:
        """Adds another pack's term, as packs of the IPAdapter family do with whom they find."""
        self._added = (*self._added, (callback, options))

    def to(self, *args: Any, **kwargs: Any) -> NestedPatch:
        """Moves what is below; this patch itself holds no tensors."""
        move = getattr(self.previous, "to", None)
        return self if move is None else self.over(move(*args, **kwargs))

    def models(self) -> list[Any]:
        """The models that the patch below wants loaded."""
        below = getattr(self.previous, "models", None)
        return [] if below is None else below()

    def cleanup(self) -> None:
        """Tells the patch below that the run is over."""
        below = getattr(self.previous, "cleanup", None)
        if below is not None:
            below()


def _subjects_at(
    site: str, query: Tensor, key: Tensor, extra_options: Mapping[str, Any]
) -> Sequence[Any]:
    plan: NestedPlan | None = extra_options.get(PLAN)
    if plan is None:
        return ()
    if plan.rows != query.shape[0]:
        plan.left_out(site, query.shape[0])
        return ()
    size = site_size(extra_options)
    subjects = plan.at(site, size, key.shape[1])
    return subjects if plan.claims is None else SiteSubjects.apart(subjects, plan.claims, size)


def site_size(extra_options: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the feature map that attention runs on, where the host tells it."""
    shape = extra_options.get("activations_shape")
    return None if shape is None else (int(shape[-2]), int(shape[-1]))


def _within(options: Mapping[str, Any], extra_options: Mapping[str, Any]) -> bool:
    if "sigma_start" not in options or "sigma_end" not in options:
        return True
    sigma = float(extra_options["sigmas"][0])
    return options["sigma_end"] <= sigma <= options["sigma_start"]
