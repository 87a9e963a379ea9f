"""Which family a base model belongs to, and which models no subject can act in."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.supported_models

from ...nested_attn_core.errors import NestedAttentionError
from .miniature import is_miniature

MINIATURE = "miniature"


def base_family(model: Any) -> str:
    """ "miniature", "sdxl", "sd2" or "sd15": what the pack calls the family of a host MODEL.

    By the host's own classes, since SD1.5 and SD2 have the same cross-attention sites.
    """
    if is_miniature(model):
        return MINIATURE
    if isinstance(model.model, comfy.model_base.SDXL):
        return "sdxl"
    return "sd2" if isinstance(model.model.model_config, comfy.supported_models.SD20) else "sd15"


def refuse_refiner(model: Any) -> None:
    """Raises NestedAttentionError, with what to do instead, for the refiner of SDXL."""
    if isinstance(model.model, comfy.model_base.SDXLRefiner):
        raise NestedAttentionError(
            "This is the SDXL refiner, for which there are no encoders; apply the subjects to the "
            "SDXL base model, and let the refiner work without them on what the base has sampled."
        )
