"""Reference images to the features that an encoder reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.fingerprint import weights_fingerprint
from .memory import LoadedEncoder

# Below this a reference holds hardly anything that the image model could see.
SMALLEST_SIDE = 32


def image_features(
    clip_vision: Any, encoder: LoadedEncoder, images: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Images (B, H, W, 3), 0 to 1, to features (B, L, feature_dim).

    ``mask`` (1 or B, H, W) marks what to crop to. Raises NestedAttentionError, in one sentence,
    for images that cannot be used and for another image model than the encoder's.
    """
    _check_images(images)
    _check_backbone(clip_vision, encoder)
    if mask is None:
        return _encoded(clip_vision, images)
    marks = _check_mask(mask, images)
    crops = [_cropped(image, mark) for image, mark in zip(images, marks, strict=True)]
    return torch.cat([_encoded(clip_vision, crop[None]) for crop in crops])


def _encoded(clip_vision: Any, images: Tensor) -> Tensor:
    return clip_vision.encode_image(images)["last_hidden_state"]


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
        raise NestedAttentionError(
            "There is no reference image; connect an image of the subject, for example from Load "
            "Image."
        )
    if images.shape[-1] not in (3, 4):
        raise NestedAttentionError(
            f"The reference image has {images.shape[-1]} channels; an RGB image is needed."
        )
    if not bool(torch.isfinite(images).all()):
        raise NestedAttentionError(
            "The reference image holds NaN or infinite numbers; check the node that makes it (a "
            "VAE in half precision may be the cause)."
        )
    _check_size("reference image", images.shape[1], images.shape[2])


def _check_size(what: str, height: int, width: int) -> None:
    if min(height, width) < SMALLEST_SIDE:
        raise NestedAttentionError(
            f"The {what} is {width} x {height} pixels, too small to show a subject; give at least "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE}."
        )


def _check_mask(mask: Tensor, images: Tensor) -> Tensor:
    marks = mask.reshape(-1, *mask.shape[-2:]) > 0.5
    if marks.shape[1:] != images.shape[1:3] or len(marks) not in (1, len(images)):
        raise NestedAttentionError(
            f"The crop mask has shape {tuple(mask.shape)} and the images {tuple(images.shape)}; "
            "draw the mask on the reference image itself."
        )
    if not bool(marks.flatten(1).any(1).all()):
        raise NestedAttentionError(
            "The crop mask is empty; mark the subject in it, or disconnect it to use the whole "
            "image."
        )
    return marks.expand(len(images), -1, -1)


def _cropped(image: Tensor, mark: Tensor) -> Tensor:
    """The smallest square around the mark, as far as the image reaches."""
    rows, columns = mark.any(1).nonzero().flatten(), mark.any(0).nonzero().flatten()
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, bottom = _span(int(rows[0]), int(rows[-1]) + 1, side, image.shape[0])
    left, right = _span(int(columns[0]), int(columns[-1]) + 1, side, image.shape[1])
    _check_size("masked part of the reference image", bottom - top, right - left)
    return image[top:bottom, left:right]


def _span(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    side = min(side, length)
    start = min(max((first + last - side) // 2, 0), length - side)
    return start, start + side


def _check_backbone(clip_vision: Any, encoder: LoadedEncoder) -> None:
    backbone = encoder.info.backbone
    found = weights_fingerprint(clip_vision.model.state_dict())
    if backbone.fingerprint and found != backbone.fingerprint:
        raise NestedAttentionError(
            f"The encoder {encoder.label} reads images through {backbone.kind}, and the connected "
            f"CLIP Vision is another model; connect {backbone.kind}."
        )
