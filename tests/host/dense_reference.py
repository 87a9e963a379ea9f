"""Nested attention inside diffusers' own UNet, by the paper's equations and with nothing of ours.

Equations (1) to (3) as they are printed: one value tensor per query, no added term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseSubject:
    """tokens (n, token_dim); row of the context; factor of the norm control, None for none."""

    tokens: Tensor
    row: int
    factor: float | None


class DenseProcessor:
    """An attention processor for diffusers; `outputs` collects what goes into to_out."""

    def __init__(
        self,
        to_k: Tensor,
        to_v: Tensor,
        subjects: Sequence[DenseSubject],
        batch_rows: Sequence[int],
        outputs: list[Tensor],
    ) -> None:
        self.to_k, self.to_v = to_k, to_v
        self.subjects, self.batch_rows = subjects, batch_rows
        self.outputs = outputs

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        assert encoder_hidden_states is not None and attention_mask is None
        q = attn.to_q(hidden_states)
        k, v = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        # A value of its own for each query: (batch, queries, tokens of the text, width).
        values = v[:, None].repeat(1, q.shape[1], 1, 1)
        for subject in self.subjects:
            nested = attention(q, subject.tokens @ self.to_k.T, subject.tokens @ self.to_v.T, attn)
            for row in self.batch_rows:
                star = nested[row]
                if subject.factor is not None:
                    length = v[row, subject.row].norm() * subject.factor
                    star = star / star.norm(dim=-1, keepdim=True) * length
                values[row, :, subject.row] = star
        heads = []
        for part in head_slices(q.shape[-1], attn.heads):
            weights = probabilities(q[..., part], k[..., part])
            heads.append(torch.einsum("bqt,bqtd->bqd", weights, values[..., part]))
        out = torch.cat(heads, -1)
        self.outputs.append(out)
        return attn.to_out[0](out)


def attention(q: Tensor, keys: Tensor, values: Tensor, attn: Any) -> Tensor:
    """Equation (1): q (B, N, W) over nested keys and values (n, W)."""
    return torch.cat(
        [
            probabilities(q[..., part], keys[None, :, part]) @ values[:, part]
            for part in head_slices(q.shape[-1], attn.heads)
        ],
        -1,
    )


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)


def head_slices(width: int, heads: int) -> list[slice]:
    size = width // heads
    return [slice(head * size, (head + 1) * size) for head in range(heads)]


def install(
    unet: Any,
    pairs: Sequence[tuple[Tensor, Tensor]],
    subjects: Sequence[DenseSubject],
    batch_rows: Sequence[int],
) -> Mapping[str, list[Tensor]]:
    """Gives each cross-attention of a diffusers UNet its pair, in diffusers' own order of
    processors; returns the outputs by processor name, filled when the UNet runs."""
    processors = dict(unet.attn_processors)
    names = [name for name in processors if name.endswith("attn2.processor")]
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, pair in zip(names, pairs, strict=True):
        processors[name] = DenseProcessor(*pair, subjects, batch_rows, outputs[name])
    unet.set_attn_processor(processors)
    return outputs
