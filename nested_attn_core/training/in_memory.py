"""A handful of pictures as a data set: everything is computed once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import NestedAttentionError
from .batches import Batch, Encoders
from .data.augment import Augmentation
from .data.captions import canonical_caption
from .data.order import Order, Pairs
from .data.shapes import mask_cells
from .data.text import stack_text
from .objective import sample_generator


class FewPictures:
    """Pictures (n, H, W, 3), 0 to 1, with a caption each, as a trainer's examples.

    identities  who is in each picture; a subject with one picture gets `variants` augmented
                references of it
    masks       (n, H, W), 0 to 1, where the subjects are, or None
    batch       samples a step

    Raises NestedAttentionError for lists of unequal length and captions without a subject.
    """

    def __init__(
        self,
        encoders: Encoders,
        images: Tensor,
        captions: Sequence[str],
        identities: Sequence[str],
        class_word: str,
        batch: int,
        seed: int,
        masks: Tensor | None = None,
        variants: int = 4,
    ):
        count = len(images)
        for what, given in (("captions", captions), ("subjects", identities)):
            if len(given) != count:
                raise NestedAttentionError(
                    f"There are {count} pictures and {len(given)} {what}; give one line for each "
                    "picture, or one line for all."
                )
        self._latents = torch.cat([encoders.latents(image[None]) for image in images])
        texts = encoders.text([_caption(text, class_word) for text in captions])
        self._context, pooled, self._positions = stack_text(texts)
        height, width = images.shape[1:3]
        self._conditions = encoders.conditions(pooled, height, width)
        self._masks = None if masks is None else self._cells(_one_each(masks, count))
        pairs = Pairs(identities, [True] * count, "single", variants)
        self._order = Order(pairs, range(count), [0] * count, batch, seed)
        self._features = {
            (row, variant): encoders.features(reference)[0]
            for row in range(count)
            for variant, reference in self._references(images, masks, row, pairs)
        }

    def batch(self, numbers: Sequence[int]) -> Batch:
        """As Examples.batch."""
        choices = [self._order.choice(number) for number in numbers]
        rows = torch.tensor([choice.target for choice in choices])
        features = [self._features[c.reference, c.variant] for c in choices]
        return Batch(
            latents=self._latents[rows],
            context=self._context[rows],
            positions=self._positions[rows],
            features=torch.stack(features),
            conditions={name: value[rows] for name, value in self._conditions.items()},
            mask=None if self._masks is None else self._masks[rows],
        )

    @property
    def feature_dim(self) -> int:
        """Width of the image model's features."""
        return next(iter(self._features.values())).shape[-1]

    def _cells(self, masks: Tensor) -> Tensor:
        height, width = self._latents.shape[-2:]
        return torch.stack([mask_cells(mask.float()[None], height, width) for mask in masks])

    def _references(self, images: Tensor, masks: Tensor | None, row: int, pairs: Pairs):
        """(variant, (1, H, W, 3)) of each reference that a row may be."""
        if len(pairs.by_identity[pairs.identities[row]]) > 1:
            yield None, images[row : row + 1, ..., :3]
            return
        picture = _picture(images[row, ..., :3])
        mask = None if masks is None else _picture(masks[min(row, len(masks) - 1)])
        for variant in range(pairs.variants):
            lots = sample_generator(0, variant, f"augment {row}")
            made = Augmentation()(picture, None if mask is None else lambda: mask, lots)  # noqa: B023
            yield variant, torch.from_numpy(np.array(made)).float()[None] / 255


def _one_each(masks: Tensor, count: int) -> Tensor:
    if len(masks) not in (1, count):
        raise NestedAttentionError(
            f"There are {count} pictures and {len(masks)} masks; give one mask for each picture, "
            "or one for all."
        )
    return masks.expand(count, -1, -1)


def _caption(text: str, class_word: str) -> str:
    try:
        return canonical_caption(text, class_word)
    except NestedAttentionError as error:
        raise NestedAttentionError(f'In "{text}", {error}.') from error


def _picture(pixels: Tensor) -> Image.Image:
    """(H, W, 3) or (H, W), 0 to 1."""
    return Image.fromarray((pixels.float().clamp(0, 1) * 255).round().byte().cpu().numpy())
