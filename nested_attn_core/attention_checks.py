"""Refuses tensors whose shapes do not belong together, before anything is computed."""

from __future__ import annotations

from torch import Tensor

from .errors import NestedAttentionError
from .site_subject import SiteSubject


def check_context(base: Tensor, query: Tensor, key: Tensor, value: Tensor, heads: int) -> None:
    if query.ndim != 3 or query.shape[-1] % heads:
        raise NestedAttentionError(
            f"The query has shape {tuple(query.shape)}; nested attention needs (batch, queries, "
            f"width) with a width that {heads} heads divide."
        )
    if base.shape != query.shape:
        raise NestedAttentionError(
            f"The attention output has shape {tuple(base.shape)} and the query "
            f"{tuple(query.shape)}; both must be the same, so a patch before this one changed it."
        )
    batch, _, width = query.shape
    if key.shape != value.shape or key.ndim != 3 or key.shape[::2] != (batch, width):
        raise NestedAttentionError(
            f"The keys have shape {tuple(key.shape)} and the values {tuple(value.shape)}; both "
            f"must be ({batch}, tokens, {width}) to fit the query."
        )


def check_subject(subject: SiteSubject, query: Tensor) -> None:
    batch, count, width = query.shape
    for name, tensor in (("keys", subject.key), ("values", subject.value)):
        if tensor.ndim != 3 or tensor.shape[0] not in (1, batch) or tensor.shape[2] != width:
            raise NestedAttentionError(
                f"The nested {name} have shape {tuple(tensor.shape)}; this site needs "
                f"(1 or {batch}, tokens, {width}), so the encoder belongs to another model."
            )
    if subject.key.shape[1] != subject.value.shape[1] or subject.key.shape[1] == 0:
        raise NestedAttentionError(
            f"There are {subject.key.shape[1]} nested keys and {subject.value.shape[1]} nested "
            "values; give as many of one as of the other, and at least one."
        )
    if subject.positions.ndim != 2 or len(subject.positions) != batch:
        raise NestedAttentionError(
            f"The subject's positions have shape {tuple(subject.positions.shape)}; give one row "
            f"of slots for each of the {batch} rows of the batch."
        )
    mask = subject.mask
    if mask is not None and (
        mask.ndim != 2 or len(mask) not in (1, batch) or mask.shape[1] != count
    ):
        raise NestedAttentionError(
            f"The subject's mask has shape {tuple(mask.shape)}; this site needs "
            f"(1 or {batch}, {count}), one number for each query."
        )
