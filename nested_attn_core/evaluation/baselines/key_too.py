"""Baseline: nested attention that adds a nested key to the subject's key, beside its nested value.

With nested keys K~ and values V~ and the nested probabilities p(q) = softmax(q K~^T / sqrt d),

    v*(q) = p(q) V~,        k*(q) = p(q) K~,
    K_q[s] = K[s] + strength k*(q),    V_q[s] = V[s] + strength (v*(q) - V[s]),
    out(q) = softmax(q K_q^T / sqrt d + log(token weight) on s) V_q.

Nested keys start at 0, so that the key is the class word's before training; keys that start at
random take all of the attention, and do not come back from there.

Why the key must stay. With l_j = q K~_j / sqrt d, the token's logit rises by the mean of l under
softmax(l). That is never below their plain mean and comes near to their maximum: the token wins
whatever query resembles any of its n keys, with no other word to say where the subject is. The
class word's key is what the base's layout was learned with (this word here, that word there), and
it is the same for every subject; a key that follows the reference picture moves the attention map,
and with it everything that the other words of the prompt draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention import NormControl, SiteSubject
from ...encoder import NestedEncoder
from ...training.methods import Attend, NestedMethod


def nested_attention_with_key(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    subjects: Sequence[SiteSubject],
    heads: int,
) -> Tensor:
    """The equations of this module's head, in base's dtype; arguments as attention.nested_attention
    takes them, save that masks are not looked at.

    Rows without a subject come back from `base` bit for bit, and at strength 0 all of it does. Half
    inputs are worked on in fp32.
    """
    subjects = [subject for subject in subjects if subject.strength != 0]
    if not subjects:
        return base
    wide = torch.promote_types(query.dtype, torch.float32)
    query, key, value = (t.to(wide) for t in (query, key, value))
    q, k, v = (_split(t, heads) for t in (query, key, value))
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    terms: list[tuple[Tensor, Tensor]] = []
    for subject in subjects:
        nested_key, nested_value = _nested(q, subject, heads)
        nested_logit = (q * q.shape[-1] ** -0.5 * nested_key).sum(-1, keepdim=True)
        for positions in subject.positions.to(query.device).unbind(1):
            at = _one_hot(positions, key)
            moved = subject.strength * nested_logit + math.log(subject.token_weight)
            logits = logits + at[:, None, None] * moved
            text = (at[:, :, None] * value).sum(1)
            replaced = _controlled(nested_value, text, subject.norm) - text[:, None]
            terms.append((at, subject.strength * replaced))
    share = logits.softmax(-1)
    out = share @ v
    for at, replaced in terms:
        column = (share * at[:, None, None]).sum(-1, keepdim=True)
        out = out + column * _split(replaced, heads)
    positions = torch.cat([subject.positions for subject in subjects], 1).to(base.device)
    acted = (positions >= 0).any(1)[:, None, None]
    return torch.where(acted, _join(out).to(base.dtype), base)


class NestedKeyToo(NestedMethod):
    """Nested attention with a nested key; it has no parameters beside those of the encoder."""

    attend: ClassVar[Attend] = staticmethod(nested_attention_with_key)

    def __init__(self, encoder: NestedEncoder, norm: NormControl, token_weight: float) -> None:
        super().__init__(encoder, norm, token_weight)
        for site in encoder.config.sites:
            nn.init.zeros_(encoder.projections.at(site.name).to_k.weight)


def _nested(query: Tensor, subject: SiteSubject, heads: int) -> tuple[Tensor, Tensor]:
    """k*(q), (B, heads, N, d), and v*(q), (B, N, heads * d)."""
    k, v = (_split(t.to(query), heads) for t in (subject.key, subject.value))
    share = ((query * query.shape[-1] ** -0.5) @ k.mT).softmax(-1)
    return share @ k, _join(share @ v)


def _controlled(nested: Tensor, text: Tensor, norm: NormControl) -> Tensor:
    if norm.mode == "none":
        return nested
    length = norm.factor * torch.linalg.vector_norm(text, dim=-1)
    return F.normalize(nested, dim=-1) * length[:, None, None]


def _one_hot(positions: Tensor, key: Tensor) -> Tensor:
    """1 at each row's position, (B, T); a row of zeros where it is -1."""
    return (positions[:, None] == torch.arange(key.shape[1], device=key.device)).to(key)


def _split(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(2)
