"""Nested attention at one cross-attention site (arXiv 2501.01407, Fig. 3).

The paper replaces, for each query, the value of the subject's token by the result of a second
attention over nested keys and values, and leaves keys, other values and the attention map alone:

    v*(q) = softmax(q K~^T / sqrt d) V~          (1)
    V_q[s] = v*(q), V_q[t] = V[t] for t != s     (2)
    out(q) = softmax(q K^T / sqrt d) V_q         (3)

Only one column of V differs, so (3) is the plain attention plus an added term per subject token,

    out(q) = base(q) + P_s(q) * (v*(q) - V[s]),

with P_s the outer probability of the token. That is exact, and it needs no value tensor per query.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import NestedAttentionError


@dataclass(frozen=True)
class NormControl:
    """Length of the nested value v* (the paper's regularisation of v*).

    "none" leaves v* as it is. "text" gives it `factor` times the length of the text value that it
    replaces: v* <- factor * ||V[s]|| * v* / ||v*||, per query, lengths over the whole inner width
    (all heads together). A v* of length zero stays zero.
    """

    mode: Literal["none", "text"] = "text"
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.mode not in ("none", "text"):
            raise NestedAttentionError(
                f'Norm control "{self.mode}" is unknown; use "none" or "text".'
            )
        if not (math.isfinite(self.factor) and self.factor >= 0):
            raise NestedAttentionError(
                f"The norm factor is {self.factor}; give a finite number of at least 0."
            )


@dataclass(frozen=True)
class SiteSubject:
    """One subject at one cross-attention site.

    key, value    nested keys and values, (1 or B, n, heads * d); cast to the query's dtype, device
    positions     (B, P) int64: rows of the context that are this subject's tokens, -1 for an empty
                  slot; best kept on the CPU, where reading it waits for no device
    strength      V'[s] = V[s] + strength * (v* - V[s]); 0 switches the subject off altogether
    norm          length of v*
    token_weight  multiplies the odds of the token in the outer attention: log(w) on its logit
    mask          (1 or B, N) per query, scales the subject's term and log(w); 0 = untouched
    """

    key: Tensor
    value: Tensor
    positions: Tensor
    strength: float = 1.0
    norm: NormControl = NormControl()
    token_weight: float = 1.0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise NestedAttentionError(f"The strength is {self.strength}; give a finite number.")
        if not (math.isfinite(self.token_weight) and self.token_weight > 0):
            raise NestedAttentionError(
                f"The token weight is {self.token_weight}; give a finite number above 0."
            )


def nested_attention(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    subjects: Sequence[SiteSubject],
    heads: int,
) -> Tensor:
    """Adds the nested term of each subject to the output of one cross-attention.

    base, query   (B, N, heads * d); base is softmax(query key^T / sqrt d) value, or what another
                  patch made of it
    key, value    (B, T, heads * d), the projected text context, heads not split
    returns       (B, N, heads * d) in base's dtype

    Rows of the batch without a subject come back bit for bit, and so do queries where all masks
    are 0; `base` itself is returned when no subject is live. Half inputs are worked on in fp32,
    save for the nested softmax, which runs in the query's dtype. Differentiable in every tensor.

    Raises NestedAttentionError for shapes that do not fit, positions outside the context and a
    token claimed twice.
    """
    live = [subject for subject in subjects if _may_act(subject)]
    if not live:
        return base
    _check_context(base, query, key, value, heads)
    for subject in live:
        _check_subject(subject, query)
    positions = torch.cat([subject.positions.cpu() for subject in live], dim=1)
    _check_positions(positions, key.shape[1])
    rows = _filled_rows(positions)
    if len(rows) == len(positions):
        return _attend(base, query, key, value, live, heads)
    here = rows.to(base.device, non_blocking=True)
    acted = _attend(
        base[here],
        query[here],
        key[here],
        value[here],
        [_take_rows(subject, rows) for subject in live],
        heads,
    )
    return base.index_copy(0, here, acted)


def _attend(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    subjects: Sequence[SiteSubject],
    heads: int,
) -> Tensor:
    """The same for a batch in which each row has a subject."""
    slots = torch.cat([subject.positions.cpu() for subject in subjects], dim=1)
    slots = slots.to(query.device, non_blocking=True)
    probability = _column_probability(query, key, slots, heads)
    text = value[torch.arange(len(slots), device=slots.device)[:, None], slots.clamp_min(0)]
    text = text.to(probability.dtype)
    widths = [subject.positions.shape[1] for subject in subjects]
    out = base.to(probability.dtype)
    if any(subject.token_weight != 1 for subject in subjects):
        odds = torch.cat([_odds(subject, probability, query) for subject in subjects], dim=-1)
        out, probability = _reweigh(out, probability, odds, text)
    for subject, share, column in zip(
        subjects, probability.split(widths, -1), text.split(widths, 1), strict=True
    ):
        out = _add_term(out, query, subject, share, column)
    out = out.to(base.dtype)
    touched = _touched(subjects, out.device)
    return out if touched is None else torch.where(touched, out, base)


def _column_probability(query: Tensor, key: Tensor, slots: Tensor, heads: int) -> Tensor:
    """Outer probabilities of the slots' tokens, (B, heads, N, slots); 0 for an empty slot."""
    q = _split_heads(_widen(query), heads)
    logits = (q * q.shape[-1] ** -0.5) @ _split_heads(_widen(key), heads).mT
    index = slots.clamp_min(0)[:, None, None].expand(*logits.shape[:3], -1)
    share = (logits.gather(-1, index) - logits.logsumexp(-1, keepdim=True)).exp()
    return share * (slots >= 0)[:, None, None]


def _reweigh(out: Tensor, probability: Tensor, odds: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Output and probabilities of the outer attention with the slots' odds multiplied.

    Closed form: with Z = 1 + sum (w - 1) P, the output is (out + sum (w - 1) P V) / Z and P' is
    w P / Z, so that the outer attention need not run again.
    """
    heads = probability.shape[1]
    excess = (odds - 1) * probability
    total = 1 + excess.sum(-1, keepdim=True)
    moved = excess @ _split_heads(text, heads) - (total - 1) * _split_heads(out, heads)
    return out + _join_heads(moved / total), odds * probability / total


def _add_term(
    out: Tensor, query: Tensor, subject: SiteSubject, share: Tensor, text: Tensor
) -> Tensor:
    """Adds share * gain * (v* - text), summed over the subject's tokens.

    out (B, N, inner), share (B, heads, N, P), text (B, P, inner) the values to be replaced.
    """
    filled = _filled_rows(subject.positions.cpu())
    if len(filled) == 0:
        return out
    rows = None if len(filled) == len(out) else filled.to(out.device, non_blocking=True)
    if rows is not None:
        subject = _take_rows(subject, filled)
        query, share, text = query[rows], share[rows], text[rows]
    heads = share.shape[1]
    nested = _nested_value(query, subject, heads).to(out.dtype)
    nested, length = _controlled(nested, text, subject.norm)
    arriving = (share @ length[:, None, :, None]) * _split_heads(nested, heads)
    term = _join_heads(arriving - share @ _split_heads(text, heads))
    term = term * _gain(subject, out)
    return out + term if rows is None else out.index_add(0, rows, term)


def _nested_value(query: Tensor, subject: SiteSubject, heads: int) -> Tensor:
    """v*(q), equation (1): (B, N, inner)."""
    shared = len(subject.key) == 1 and len(subject.value) == 1
    # Rows that share their nested keys are one long row of queries: nothing is repeated.
    q = query.reshape(1, -1, query.shape[-1]) if shared else query
    k, v = (tensor.to(query).expand(len(q), -1, -1) for tensor in (subject.key, subject.value))
    q, k, v = (_split_heads(tensor, heads) for tensor in (q, k, v))
    return _join_heads(F.scaled_dot_product_attention(q, k, v)).reshape(query.shape)


def _controlled(nested: Tensor, text: Tensor, norm: NormControl) -> tuple[Tensor, Tensor]:
    """Direction (B, N, inner) and length per token (B, P), so that v* is their product."""
    if norm.mode == "none":
        return nested, text.new_ones(text.shape[:2])
    length = torch.linalg.vector_norm(nested, dim=-1, keepdim=True)
    # Below this the squares underflow; such a vector has no direction, and 0 / 0 must not arise.
    directed = length > math.sqrt(torch.finfo(nested.dtype).tiny)
    inverse = torch.where(directed, 1 / torch.where(directed, length, 1), 0)
    return nested * inverse, norm.factor * torch.linalg.vector_norm(text, dim=-1)


def _gain(subject: SiteSubject, like: Tensor) -> Tensor | float:
    if subject.mask is None:
        return subject.strength
    return subject.strength * subject.mask.to(like)[..., None]


def _odds(subject: SiteSubject, probability: Tensor, query: Tensor) -> Tensor:
    """What multiplies the odds of the subject's tokens, (B, 1, N, P)."""
    shape = (len(query), 1, query.shape[1], subject.positions.shape[1])
    if subject.mask is None:
        return probability.new_full((), subject.token_weight).expand(shape)
    odds = (subject.mask.to(probability) * math.log(subject.token_weight)).exp()
    return odds[:, None, :, None].expand(shape)


def _touched(subjects: Sequence[SiteSubject], device: torch.device) -> Tensor | None:
    """Queries that some mask lets through, (1 or B, N, 1); None if a subject has no mask."""
    masks = [subject.mask for subject in subjects if subject.mask is not None]
    if len(masks) < len(subjects):
        return None
    return functools.reduce(operator.or_, (mask.to(device) != 0 for mask in masks))[..., None]


def _may_act(subject: SiteSubject) -> bool:
    if subject.strength == 0 or not bool((subject.positions >= 0).any()):
        return False
    # A mask on an accelerator is not read: the program would have to wait for it.
    mask = subject.mask
    return mask is None or mask.device.type != "cpu" or bool(mask.any())


def _filled_rows(positions: Tensor) -> Tensor:
    return (positions >= 0).any(1).nonzero().flatten()


def _take_rows(subject: SiteSubject, rows: Tensor) -> SiteSubject:
    def take(tensor: Tensor) -> Tensor:
        return tensor if len(tensor) == 1 else tensor[rows.to(tensor.device, non_blocking=True)]

    return replace(
        subject,
        key=take(subject.key),
        value=take(subject.value),
        positions=subject.positions.cpu()[rows],
        mask=None if subject.mask is None else take(subject.mask),
    )


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join_heads(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(2)


def _check_context(base: Tensor, query: Tensor, key: Tensor, value: Tensor, heads: int) -> None:
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


def _check_subject(subject: SiteSubject, query: Tensor) -> None:
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


def _check_positions(positions: Tensor, tokens: int) -> None:
    if int(positions.max()) >= tokens:
        raise NestedAttentionError(
            f"A subject is bound to token {int(positions.max())} of a context of {tokens} tokens; "
            "encode the prompt again with the patched CLIP."
        )
    ordered = positions.sort(dim=1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise NestedAttentionError(
            "One token of the context is bound twice; bind each token to one subject, once."
        )
