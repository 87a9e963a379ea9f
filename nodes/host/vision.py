"""Reference images to what the image model sees, and to the features that an encoder reads."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import torch
import torch.nn.functional as F
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from .backbones import check_backbone
from .memory import LoadedEncoder

# Below this a reference holds hardly anything that the image model could see.
SMALLEST_SIDE = 32
PAD, CROP = "pad", "crop"
# The border that the trainer adds, too; an image model reads next to nothing in it.
GREY = 128 / 255


def reference_frames(
    images: Tensor, mask: Tensor | None = None, framing: str = CROP
) -> list[Tensor]:
    """Images (B, H, W, 3 or 4), 0 to 1, as frames (1, h, w, 3), one for each or all in one batch.

    ``mask`` (1 or B, H, W) marks what to crop to. With ``framing`` "pad" frames are square: grey is
    added at two sides. With "crop" they stay as they are, and the image model sees their middle.
    Raises NestedAttentionError, in one sentence, for images that cannot be used.
    """
    if framing not in (PAD, CROP):
        raise NestedAttentionError(f'The framing is "{framing}"; choose {PAD} or {CROP}.')
    check_images(images)
    images = images[..., :3]
    if mask is None:
        parts = [images]
    else:
        marks = _check_mask(mask, images)
        parts = [_cropped(image, mark)[None] for image, mark in zip(images, marks, strict=True)]
    return [_squared(part) for part in parts] if framing == PAD else parts


def image_features(
    clip_vision: Any,
    encoder: LoadedEncoder,
    images: Tensor,
    mask: Tensor | None = None,
    framing: str = CROP,
) -> Tensor:
    """Images (B, H, W, 3), 0 to 1, to features (B, L, feature_dim); see reference_frames.

    Raises NestedAttentionError for another image model than the encoder's, too.
    """
    frames = reference_frames(images, mask, framing)
    check_backbone(clip_vision, encoder)
    return torch.cat([clip_vision.encode_image(part)["last_hidden_state"] for part in frames])


def seen(
    clip_vision: Any, images: Tensor, mask: Tensor | None = None, framing: str = CROP
) -> Tensor:
    """What the image model sees of these images: (B, size, size, 3), 0 to 1, by the host's own
    preprocessing without its last step, the normalisation."""
    frames = reference_frames(images, mask, framing)
    plain: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3}
    size = clip_vision.image_size
    shown = [comfy.clip_vision.clip_preprocess(part, size=size, **plain) for part in frames]
    return torch.cat(shown).movedim(1, -1)


def _squared(images: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = (0, 0, left, side - width - left, top, side - height - top)
    return F.pad(images, borders, value=GREY)


def check_images(images: Any) -> None:
    """Raises NestedAttentionError for what is no usable image (B, H, W, 3 or 4)."""
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
