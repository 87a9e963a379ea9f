"""The image models that the host can load, what each yields, and whether one fits an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.fingerprint import weights_fingerprint
from .memory import LoadedEncoder


@dataclass(frozen=True)
class Shape:
    """What an image model yields: features (tokens, width) of a square of image_size pixels."""

    width: int
    tokens: int
    image_size: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens of width {self.width} from {self.image_size} px"


# By the host's own detection of files (comfy.clip_vision) and its configurations.
KNOWN: dict[str, Shape] = {
    "CLIP ViT-L/14": Shape(1024, 257, 224),
    "CLIP ViT-L/14 at 336 px": Shape(1024, 577, 336),
    "CLIP ViT-H/14": Shape(1280, 257, 224),
    "CLIP ViT-bigG/14": Shape(1664, 257, 224),
    "SigLIP so400m at 384 px": Shape(1152, 729, 384),
    "SigLIP so400m at 512 px": Shape(1152, 1024, 512),
    "DINOv2 large": Shape(1024, 1370, 518),
    "DINOv2 giant": Shape(1536, 1370, 518),
}


def shape_of(clip_vision: Any) -> Shape | None:
    """Of a host CLIP_VISION, from its weights; None for one of an unknown layout."""
    for name, weight in clip_vision.model.state_dict().items():
        if name.endswith(("position_embedding.weight", "position_embeddings")):
            tokens, width = weight.shape[-2:]
            return Shape(int(width), int(tokens), int(clip_vision.image_size))
    return None


def named(width: int, image_size: int) -> str:
    """The known image models of that width and size, or the shape itself."""
    found = [
        name
        for name, shape in KNOWN.items()
        if (shape.width, shape.image_size) == (width, image_size)
    ]
    return " or ".join(found) or f"a model of width {width} that looks at {image_size} px"


def check_backbone(clip_vision: Any, encoder: LoadedEncoder) -> None:
    """Raises NestedAttentionError, with what to load, for another image model than the encoder's.

    The encoder's file knows its image model by fingerprint; one of the authors' release only by
    the width of its features and the size of its pictures.
    """
    backbone = encoder.info.backbone
    width = getattr(backbone, "feature_dim", 0) or encoder.info.config.feature_dim
    found = shape_of(clip_vision)
    if backbone.fingerprint:
        if weights_fingerprint(clip_vision.model.state_dict()) == backbone.fingerprint:
            return
        wanted = f"{backbone.kind} ({named(width, backbone.image_size)})"
    else:
        if found is not None and (found.width, found.image_size) == (width, backbone.image_size):
            return
        wanted = named(width, backbone.image_size)
    raise NestedAttentionError(
        f"The encoder {encoder.label} reads images through {wanted}, and the connected CLIP Vision "
        f"is another model ({_described(found)}); connect that one, by Load CLIP Vision."
    )


def _described(shape: Shape | None) -> str:
    if shape is None:
        return "of a layout that this version does not know"
    return f"{named(shape.width, shape.image_size)}, {shape}"
