"""Whether what comes in as an image or as a mask is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import NestedAttentionError


def check_pictures(images: Any, what: str) -> None:
    """Raises NestedAttentionError unless it is (B, H, W, 3 or 4), none of them 0, floating and
    finite. `what` stands after "the" in the message: "reference image"."""
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
        raise NestedAttentionError(
            f"There is no {what}; connect an image, for example from Load Image."
        )
    if images.shape[-1] not in (3, 4):
        raise NestedAttentionError(
            f"The {what} has {images.shape[-1]} channels; an RGB image is needed."
        )
    if not images.is_floating_point():
        raise NestedAttentionError(
            f"The {what} holds numbers of the type {images.dtype}; floating numbers from 0 to 1 "
            "are needed."
        )
    if 0 in images.shape:
        raise NestedAttentionError(
            f"The {what} is {images.shape[2]} x {images.shape[1]} pixels; connect one that shows "
            "something."
        )
    if not bool(torch.isfinite(images).all()):
        raise NestedAttentionError(
            f"The {what} holds NaN or infinite numbers; check the node that makes it (a VAE in "
            "half precision may be the cause)."
        )


def check_masks(masks: Any, what: str) -> None:
    """Raises NestedAttentionError unless it is (H, W) or (B, H, W) or (B, 1, H, W), none of them 0,
    of finite real numbers."""
    if not isinstance(masks, Tensor) or masks.is_complex():
        raise NestedAttentionError(
            f"The {what} is no mask; connect one, for example from Load Image (as Mask), or "
            "nothing."
        )
    if masks.ndim not in (2, 3, 4) or (masks.ndim == 4 and masks.shape[1] != 1) or 0 in masks.shape:
        raise NestedAttentionError(
            f"The {what} has shape {tuple(masks.shape)}; (masks, height, width) is needed."
        )
    if not bool(torch.isfinite(masks).all()):
        raise NestedAttentionError(
            f"The {what} holds NaN or infinite numbers; give numbers between 0 and 1."
        )
