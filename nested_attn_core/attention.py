"""Nested attention at one cross-attention site (arXiv 2501.01407, Fig. 3).

The paper replaces, for each query, the value of the subject's token by the result of a second
attention over nested keys and values, and leaves keys, other values and the attention map alone:

    v*(q) = softmax(q K~^T / sqrt d) V~          (1)
    V_q[s] = v*(q), V_q[t] = V[t] for t != s     (2)
    out(q) = softmax(q K^T / sqrt d) V_q         (3)

Only one column of V differs, so (3) is the plain attention plus an added term per subject token,

    out(q) = base(q) + P_s(q) * (v*(q) - V[s]),

with P_s the outer probability of the token. That is exact, and it needs no value tensor per query.

A token weight w multiplies the odds of the token. With Z = 1 + sum (w - 1) P, the weighted outer
attention is (base + sum (w - 1) P V[s]) / Z, and its probabilities are P' = w P / Z, so that it
need not run again. Both together are three products with one small coefficient per query and head:

    out = base / Z + V[s] * ((w - 1) P / Z - g P') + v* * g P'         g = strength * mask

Length, token weight, strength and mask are in the coefficients; the wide tensors are passed over
once each. Where several subjects are kept apart, g has the factor of assignment.py too.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_checks import check_context, check_subject
from .outer_attention import column_probability, join_heads, split_heads, take_tokens, widen
from .site_subject import NormControl, SiteSubject
from .site_subjects import SiteSubjects, slots_of
from .slots import Slots, take

__all__ = ["NormControl", "SiteSubject", "nested_attention"]

# Gathering and scattering queries costs more than it saves where nearly all are wanted.
WORTH_GATHERING = 0.9

# shares of the live subjects (R, N, heads, P) -> factors of their terms, where they are kept apart
Apart = Callable[[Sequence[Tensor]], list[Tensor] | None]


def nested_attention(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    subjects: Sequence[SiteSubject],
    heads: int,
    normaliser: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Adds the nested term of each subject to the output of one cross-attention.

    base, query   (B, N, heads * d); base is softmax(query key^T / sqrt d) value, or what another
                  patch made of it
    key, value    (B, T, heads * d), the projected text context, heads not split
    normaliser    (B, heads, N), the outer softmax's log-sum-exp where it is known already
                  (outer_attention.py); without it a second softmax is made, for the rows that
                  have a subject
    overwrite     base is the caller's own and may be written to, where that saves a copy
    returns       (B, N, heads * d) in base's dtype

    Rows of the batch without a subject come back bit for bit, and so do queries where all masks
    are 0; `base` itself is returned when no subject is live. Half inputs are worked on in fp32,
    save for the nested softmax, which runs in the query's dtype. Differentiable in every tensor
    but the normaliser.

    Raises NestedAttentionError for shapes that do not fit, positions outside the context and a
    token claimed twice.
    """
    live = [subject for subject in subjects if _may_act(subject)]
    if not live:
        return base
    check_context(base, query, key, value, heads)
    for subject in live:
        check_subject(subject, query)
    slots = slots_of(subjects, live, key.shape[1], query.device)
    here = functools.partial(take, rows=slots.rows)
    touched = _touched([here(s.mask) for s in live if s.mask is not None], len(live), base.device)
    terms = [_Term.of(subject, slots, number, here(query)) for number, subject in enumerate(live)]
    # What is untouched is put back from base at the end, which must then be left as it is.
    overwrite = overwrite and touched is None and widen(base) is base
    acted = _attend(
        here(base), here(query), here(key), here(value), terms, slots, heads,
        None if normaliser is None else here(normaliser), overwrite, _apart(subjects, live, slots),
    )  # fmt: skip
    if touched is not None:
        acted = torch.where(touched, acted, here(base))
    return _put_back(base, acted, slots.rows, overwrite)


@dataclass
class _Term:
    """A subject among the R rows of the batch that have one; its tensors are cut to these rows.

    gain    strength * mask, (1 or R, N, 1, 1) or a number; odds the same for the token weight
    own     the rows where the subject is
    chosen  which of all R * N queries the nested attention is made for, (M,) int64; None for all
            queries of the subject's own rows
    """

    subject: SiteSubject
    key: Tensor
    value: Tensor
    gain: Tensor | float
    odds: Tensor | float
    own: slice | Tensor | None
    chosen: Tensor | None

    @classmethod
    def of(cls, subject: SiteSubject, slots: Slots, number: int, query: Tensor) -> _Term:
        gain, odds = subject.strength, subject.token_weight
        if subject.mask is not None:
            mask = take(subject.mask, slots.rows).to(query.device, widen(query).dtype)
            mask = mask[..., None, None]
            gain, odds = gain * mask, (mask * math.log(odds)).exp() if odds != 1 else odds
        key, value = take(subject.key, slots.rows), take(subject.value, slots.rows)
        own = slots.own[number]
        chosen = None
        queries = _queries(subject)
        count = query.shape[1]
        if len(key) == len(value) == 1 and queries is not None:
            rows = take(torch.arange(len(query), device=query.device), own)
            queries = queries.to(query.device, non_blocking=True)
            if len(queries) < WORTH_GATHERING * count:
                chosen = (rows[:, None] * count + queries).flatten()
        return cls(subject, key, value, gain, odds, own, chosen)

    def limit(self, share: Tensor) -> None:
        """Leaves out the queries where the subject's share (R, N, heads, P) is not above the
        threshold."""
        if self.subject.threshold == 0 or len(self.key) > 1 or len(self.value) > 1:
            return
        mask = 1.0 if self.subject.mask is None else self.gain / self.subject.strength
        kept = ((share * mask).flatten(2).amax(-1) > self.subject.threshold).flatten()
        chosen = kept.nonzero().flatten() if self.chosen is None else self.chosen[kept[self.chosen]]
        if len(chosen) < WORTH_GATHERING * len(kept):
            self.chosen = chosen
            self.gain = self.gain * kept.view(*share.shape[:2], 1, 1).to(share.dtype)


def _attend(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    terms: Sequence[_Term],
    slots: Slots,
    heads: int,
    normaliser: Tensor | None,
    overwrite: bool,
    apart: Apart | None,
) -> Tensor:
    """The same for a batch in which each row has a subject."""
    share = column_probability(query, key, slots.index, heads, normaliser)
    if slots.filled is not None:
        share = share * slots.filled[:, None, None]
    shares = share.split(slots.widths, -1)
    text = take_tokens(value, slots.index).to(share.dtype)
    columns = [torch.zeros((), dtype=share.dtype, device=share.device)] * len(terms)
    out = widen(base).unflatten(-1, (heads, -1))
    owned = overwrite or out.dtype != base.dtype
    if any(term.subject.token_weight != 1 for term in terms):
        excess = [(term.odds - 1) * each for term, each in zip(terms, shares, strict=True)]
        inverse = 1 / (1 + torch.cat(excess, -1).sum(-1, keepdim=True))
        columns = [each * inverse for each in excess]
        shares = [term.odds * each * inverse for term, each in zip(terms, shares, strict=True)]
        out = out.mul_(inverse) if owned else out * inverse
        owned = True
    factors = None if apart is None else apart(shares)
    weights = []
    for number, (term, each) in enumerate(zip(terms, shares, strict=True)):
        term.limit(each)
        weights.append(each * term.gain if factors is None else each * term.gain * factors[number])
        columns[number] = columns[number] - weights[number]
    if not owned:
        out = out.clone()
    texts = text.unflatten(-1, (heads, -1))[:, None]
    for number, column in enumerate(torch.cat(columns, -1).unbind(-1)):
        out = out.addcmul_(texts[:, :, number], column[..., None])
    for term, weight, column in zip(terms, weights, text.split(slots.widths, 1), strict=True):
        _add_nested(out, query, term, weight, column)
    return out.flatten(2).to(base.dtype)


def _add_nested(out: Tensor, query: Tensor, term: _Term, weight: Tensor, text: Tensor) -> None:
    """Adds weight * v*, summed over the subject's tokens, to out (R, N, heads, d).

    weight (R, N, heads, P), text (R, P, heads * d) the values that are replaced.
    """
    norm = term.subject.norm
    if norm.mode == "text":
        weight = weight * (norm.factor * torch.linalg.vector_norm(text, dim=-1))[:, None, None]
    weight = weight.sum(-1, keepdim=True)
    heads = weight.shape[2]
    if term.chosen is not None:
        chosen = term.chosen
        if len(chosen):
            nested = _nested_value(query.flatten(0, 1)[chosen][None], term.key, term.value, heads)
            nested, weight = _directed(nested.to(out.dtype), weight.flatten(0, 1)[chosen], norm)
            nested = nested[0].unflatten(-1, (heads, -1)) * weight
            out.view(-1, *out.shape[2:]).index_add_(0, chosen, nested)
        return
    own = functools.partial(take, rows=term.own)
    nested = _nested_value(own(query), own(term.key), own(term.value), heads).to(out.dtype)
    nested, weight = _directed(nested, own(weight), norm)
    nested = nested.unflatten(-1, (heads, -1))
    if isinstance(term.own, Tensor):
        out.index_add_(0, term.own, nested * weight)
    else:
        (out if term.own is None else out[term.own]).addcmul_(nested, weight)


def _nested_value(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """v*(q), equation (1): (B, N, inner)."""
    shared = len(key) == 1 and len(value) == 1
    # Rows that share their nested keys are one long row of queries: nothing is repeated.
    q = query.reshape(1, -1, query.shape[-1]) if shared else query
    k, v = (tensor.to(query).expand(len(q), -1, -1) for tensor in (key, value))
    q, k, v = (split_heads(tensor, heads) for tensor in (q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v)).reshape(query.shape)


def _directed(nested: Tensor, weight: Tensor, norm: NormControl) -> tuple[Tensor, Tensor]:
    """Nested values (B, N, inner), and the weight, over their length where that is controlled."""
    if norm.mode == "none":
        return nested, weight
    length = torch.linalg.vector_norm(nested, dim=-1).view(*weight.shape[:-2], 1, 1)
    # Below this the squares underflow; such a vector has no direction, and 0 / 0 must not arise.
    directed = length > math.sqrt(torch.finfo(nested.dtype).tiny)
    return nested, weight * torch.where(directed, 1 / torch.where(directed, length, 1), 0)


def _apart(
    subjects: Sequence[SiteSubject], live: Sequence[SiteSubject], slots: Slots
) -> Apart | None:
    if not isinstance(subjects, SiteSubjects) or subjects.claims is None or len(live) < 2:
        return None
    claims, size = subjects.claims, subjects.size
    chosen = {id(subject) for subject in live}
    numbers = [number for number, subject in enumerate(subjects) if id(subject) in chosen]
    return lambda shares: claims.see(numbers, live, slots, shares, size)


def _touched(masks: Sequence[Tensor], subjects: int, device: torch.device) -> Tensor | None:
    """Queries that some mask lets through, (1 or B, N, 1); None if a subject has no mask."""
    if len(masks) < subjects:
        return None
    return functools.reduce(operator.or_, (mask.to(device) != 0 for mask in masks))[..., None]


def _put_back(
    base: Tensor, acted: Tensor, rows: slice | Tensor | None, overwritten: bool
) -> Tensor:
    if rows is None:
        return acted
    if isinstance(rows, Tensor):
        return base.index_copy_(0, rows, acted) if overwritten else base.index_copy(0, rows, acted)
    return base if overwritten else torch.cat([base[: rows.start], acted, base[rows.stop :]])


def _queries(subject: SiteSubject) -> Tensor | None:
    if subject.queries is not None or subject.mask is None or subject.mask.device.type != "cpu":
        return subject.queries
    return (subject.mask != 0).any(0).nonzero().flatten()


def _may_act(subject: SiteSubject) -> bool:
    if subject.strength == 0 or not bool((subject.positions >= 0).any()):
        return False
    if subject.queries is not None:
        return len(subject.queries) > 0
    # A mask on an accelerator is not read: the program would have to wait for it.
    mask = subject.mask
    return mask is None or mask.device.type != "cpu" or bool(mask.any())
