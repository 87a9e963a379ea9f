"""The token head, recognised by its parts (the names of the resampler that IP-Adapter made known,
of which the authors' `resampler.py` is a copy by size and imports)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import NestedAttentionError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# No shape tells the width of a head; every published resampler of this kind has 64.
USUAL_HEAD_DIM = 64

_LATENTS = "latents"
_ENDS = ("proj_in.weight", "proj_in.bias", "proj_out.weight", "proj_out.bias",
         "norm_out.weight", "norm_out.bias")  # fmt: skip
_LAYER = {
    "0.norm1.weight": "attention.norm_features.weight",
    "0.norm1.bias": "attention.norm_features.bias",
    "0.norm2.weight": "attention.norm_latents.weight",
    "0.norm2.bias": "attention.norm_latents.bias",
    "0.to_q.weight": "attention.to_q.weight",
    "0.to_k.weight": "attention.to_k.weight",
    "0.to_v.weight": "attention.to_v.weight",
    "0.to_kv.weight": "attention.to_kv.weight",
    "0.to_out.weight": "attention.to_out.weight",
    "1.0.weight": "mlp.norm.weight",
    "1.0.bias": "mlp.norm.bias",
    "1.1.weight": "mlp.up.weight",
    "1.3.weight": "mlp.down.weight",
}
_VARIANTS = {
    "pos_emb.": "a learned position for each image feature",
    "to_latents_from_mean_pooled_seq.": "queries made from the mean of the image features",
}


def find_resamplers(names: Mapping[str, Any]) -> list[str]:
    """Prefixes ("image_proj_model.") under which the parts of a resampler lie."""
    ends = [name for name in names if name == _LATENTS or name.endswith("." + _LATENTS)]
    prefixes = [name.removesuffix(_LATENTS) for name in ends]
    return [p for p in prefixes if p + "proj_in.weight" in names or p + "proj_out.weight" in names]


def map_resampler(names: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Our names of the resampler's tensors to the file's; keys and values may be one tensor,
    "to_kv". Raises NestedAttentionError (a clause, without the file) for a variant."""
    for part, what in _VARIANTS.items():
        if any(name.startswith(prefix + part) for name in names):
            raise NestedAttentionError(
                f"its resampler has {what} ({prefix}{part}*), which this version does not compute"
            )
    mapped = {"resampler.queries": prefix + _LATENTS}
    mapped |= {f"resampler.{end}": prefix + end for end in _ENDS if prefix + end in names}
    layer = re.compile(re.escape(prefix) + r"layers\.(\d+)\.(.+)")
    for name in names:
        found = layer.fullmatch(name)
        if found and found[2] in _LAYER:
            mapped[f"resampler.layers.{int(found[1])}.{_LAYER[found[2]]}"] = name
    return mapped


def resampler_sizes(shapes: Shapes, head_dim: int | None) -> dict[str, int]:
    """The sizes of EncoderConfig without its sites, from shapes under our names.

    Raises NestedAttentionError (a clause, without the file) where they cannot be told.
    """
    tokens, width = _sizes(shapes, "resampler.queries", 3)[1:]
    _, feature_dim = _sizes(shapes, "resampler.proj_in.weight", 2)
    token_dim, _ = _sizes(shapes, "resampler.proj_out.weight", 2)
    layers = {found[1] for name in shapes if (found := re.match(r"resampler\.layers\.(\d+)", name))}
    inner, _ = _sizes(shapes, "resampler.layers.0.attention.to_q.weight", 2)
    raised, _ = _sizes(shapes, "resampler.layers.0.mlp.up.weight", 2)
    head = head_dim or USUAL_HEAD_DIM
    if inner % head:
        raise NestedAttentionError(
            f"the inner width of its resampler's attention is {inner}, which heads of {head} do "
            "not divide, so the width of a head has to be given as head_dim"
        )
    if raised % width:
        raise NestedAttentionError(
            f"the resampler's feed-forward layer has width {raised}, no multiple of {width}"
        )
    return {
        "feature_dim": feature_dim,
        "tokens": tokens,
        "token_dim": token_dim,
        "width": width,
        "depth": len(layers),
        "heads": inner // head,
        "head_dim": head,
        "ff_mult": raised // width,
    }


def _sizes(shapes: Shapes, name: str, count: int) -> Shape:
    if name not in shapes:
        raise NestedAttentionError(f"its resampler has no tensor for {name}")
    shape = shapes[name]
    if len(shape) != count or 0 in shape:
        raise NestedAttentionError(
            f"the tensor for {name} has shape {shape}, not one of {count} sizes"
        )
    return shape
