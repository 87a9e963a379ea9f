"""Which subject a query belongs to where several claim it.

The outer attention of several subjects' tokens overlaps: a query in the kitten looks at the
person's word too, and is given a part of the person's nested value. With C_s(q) the claim of
subject s (separation.py), the nested term of s is multiplied by

    soft        a_s(q) = C_s(q)^p / sum_j C_j(q)^p
    exclusive   a_s(q) = 1 for the s with the largest C_s(q), 0 for all others

so that out(q) = base(q) + sum_s a_s(q) P_s(q) (v*_s(q) - V[s]). The outer attention itself stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 2.0


def relative(maps: Tensor) -> Tensor:
    """Claims (..., N) from maps (..., N): how much more a subject's word is looked at in a place
    than on the mean of all places. A word that gets more attention than another throughout, by
    its place in the prompt or by its token weight, gains nothing by that."""
    return maps / maps.mean(-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def assigned(claims: Tensor, exclusive: bool, sharpness: float = SHARPNESS) -> Tensor:
    """The factors a_s, (S, ...), from claims (S, ...) of at least 0.

    sharpness is the p of a soft assignment. Where only one subject has a claim its factor is
    exactly 1; where none has, all factors are equal (soft) or the first subject's is 1. Of equal
    claims the first subject's is the larger one.
    """
    if exclusive:
        owner = claims.argmax(0, keepdim=True)
        return torch.zeros_like(claims).scatter_(0, owner, 1.0)
    # Over the largest first, so that small claims do not underflow.
    largest = claims.amax(0, keepdim=True)
    power = torch.where(largest > 0, claims / largest.clamp_min(1e-30), 1.0) ** sharpness
    return power / power.sum(0, keepdim=True)
