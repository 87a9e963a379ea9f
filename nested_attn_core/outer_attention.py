"""The outer attention: what a subject's token gets of it, and its normaliser from the kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

FLASH = SDPBackend.FLASH_ATTENTION.value


def attention_with_normaliser(
    query: Tensor, key: Tensor, value: Tensor, heads: int
) -> tuple[Tensor, Tensor] | None:
    """Attention (B, N, heads * d) and the logarithm of its softmax's denominator (B, heads, N).

    query (B, N, heads * d), key and value (B, T, heads * d), heads not split. The attention is what
    F.scaled_dot_product_attention gives for them, bit for bit, because it is the same kernel; the
    normaliser, in fp32 or wider, has no gradient. None where that kernel is another than the CPU's
    flash attention, under autograd, and while torch.compile traces.
    """
    tensors = query, key, value
    if torch.compiler.is_compiling() or any(t.device.type != "cpu" for t in tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return None
    choice = getattr(torch, "_fused_sdp_choice", None)
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if choice is None or kernel is None:
        return None
    split = [split_heads(tensor, heads) for tensor in tensors]
    if choice(*split) != FLASH:
        return None
    out, normaliser = kernel(*split)
    return join_heads(out), normaliser


def column_probability(
    query: Tensor, key: Tensor, index: Tensor, heads: int, normaliser: Tensor | None = None
) -> Tensor:
    """Outer probabilities of some tokens, (B, N, heads, S), in fp32 or wider.

    query (B, N, heads * d), key (B, T, heads * d), index (B, S) int64 the tokens' rows of the
    context, normaliser (B, heads, N) as attention_with_normaliser gives it. Without a normaliser
    the whole softmax (B, heads, N, T) is made for it.
    """
    q, k = widen(query), widen(key)
    scale = (q.shape[-1] // heads) ** -0.5
    if normaliser is None:
        logits = (split_heads(q, heads) * scale) @ split_heads(k, heads).mT
        columns = index[:, None, None].expand(*logits.shape[:3], -1)
        return logits.softmax(-1).gather(-1, columns).transpose(1, 2)
    chosen = (take_tokens(k, index) * scale).unflatten(-1, (heads, -1))
    q = q.unflatten(-1, (heads, -1))
    # A product and a sum are several times faster than the matrix product with so few columns.
    logits = torch.stack([(q * column[:, None]).sum(-1) for column in chosen.unbind(1)], dim=-1)
    return (logits - normaliser.transpose(1, 2)[..., None]).exp()


def take_tokens(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows index (B, S) of a context (B, T, width)."""
    return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[-1]))


def widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(2)
