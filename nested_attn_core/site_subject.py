"""What a subject is at one cross-attention site, and how long its nested values are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
    queries       (M,) int64, ascending: queries outside which the mask is 0 in every row; found
                  from a mask on the CPU where it is not given, and never read back to the CPU
    threshold     the term is left out at queries where P'_s * mask is no more than this in every
                  head, P'_s the outer probability that the token weight has made; the output there
                  is off by at most threshold * |strength| * ||v* - V[s]||, and nowhere else. 0 is
                  exact. Only for nested keys and values that all rows share; on an accelerator it
                  waits for the device once a site
    """

    key: Tensor
    value: Tensor
    positions: Tensor
    strength: float = 1.0
    norm: NormControl = NormControl()
    token_weight: float = 1.0
    mask: Tensor | None = None
    queries: Tensor | None = None
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise NestedAttentionError(f"The strength is {self.strength}; give a finite number.")
        if not (math.isfinite(self.token_weight) and self.token_weight > 0):
            raise NestedAttentionError(
                f"The token weight is {self.token_weight}; give a finite number above 0."
            )
        if not 0 <= self.threshold < 1:
            raise NestedAttentionError(
                f"The threshold is {self.threshold}; give a probability from 0 (exact) to below 1."
            )
