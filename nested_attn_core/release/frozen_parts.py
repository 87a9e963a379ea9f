"""Parts of a training wrapper that no training changed and that an encoder's file may carry along:
the base model's UNet, its text encoders, its VAE, the image model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# (what it is, a tensor that it has, what its names begin with after the common prefix)
_KINDS = (
    ("the base model's UNet", "conv_in.weight", "conv_norm_out.weight",
     r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|conv_norm_out|time_embedding|time_proj"
     r"|add_embedding|add_time_proj)\."),
    ("the image model", "vision_model.embeddings.class_embedding",
     "vision_model.post_layernorm.weight", r"(vision_model|visual_projection)\."),
    ("a text encoder", "text_model.embeddings.token_embedding.weight",
     "text_model.final_layer_norm.weight", r"(text_model|text_projection)\."),
    ("a VAE", "encoder.conv_in.weight", "decoder.conv_in.weight",
     r"(encoder|decoder|quant_conv|post_quant_conv)\."),
)  # fmt: skip


@dataclass(frozen=True)
class FrozenPart:
    """`what` lies at `prefix`, with these names."""

    what: str
    prefix: str
    names: frozenset[str]


def frozen_parts(shapes: Mapping[str, Shape]) -> list[FrozenPart]:
    """Every frozen part. Attention processors inside a UNet are no part of it: they are trained."""
    return [
        FrozenPart(what, prefix, _under(shapes, prefix, beginning))
        for what, sign, other, beginning in _KINDS
        for prefix in (n.removesuffix(sign) for n in shapes if n == sign or n.endswith("." + sign))
        if prefix + other in shapes
    ]


def _under(shapes: Mapping[str, Shape], prefix: str, beginning: str) -> frozenset[str]:
    pattern = re.compile(re.escape(prefix) + beginning)
    return frozenset(name for name in shapes if pattern.match(name) and ".processor." not in name)
