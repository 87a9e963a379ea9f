"""How a binding travels: a stock per-row model condition inside the conditioning.

The payload is int64 (1, slots, 3). A slot is (subject, row of the context, length of the context
that the row counts in); -1 marks an empty slot. Looking a binding up by uuid, by the index of
positive and negative, or through hooks is wrong or slow in some workflow; a condition is not.

Where masks need it, a map of coordinates travels beside it, int32 (images, 3, height, width): row,
column and image of each latent pixel. It has the latent's size, so that the host cuts an area out
of it as it does with noise, and extensions that sample in tiles cut their tiles out of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from comfy.conds import CONDNoiseShape, CONDRegular
from torch import Tensor

SLOTS = "nested_attention_slots"
REGION = "nested_attention_region"
LATENT = "nested_attention_latent"

NOT_GIVEN = (
    "A prompt names a subject that this model was not given; connect the MODEL output of the "
    "Apply Nested Attention whose CLIP encodes the prompt."
)

Slot = tuple[int, int, int]
log = logging.getLogger("nested_attention")


class UnreadSlots(CONDRegular):
    """Slots as a conditioning brings them. Our wrappers put plain ones in their place; if these
    reach a model call, no Apply stands before the sampler."""

    def process_cond(self, *args: Any, **kwargs: Any) -> Any:
        if bool((self.cond[..., 0] >= 0).any()) and not getattr(self, "told", False):
            self.told = True
            log.warning(NOT_GIVEN)
        return super().process_cond(*args, **kwargs)


def payload(slots: Sequence[Slot]) -> Tensor:
    """Slots as int64 (1, at least 1, 3)."""
    return torch.tensor([list(slots) or [(-1, -1, -1)]], dtype=torch.long)


def slots_of(condition: Mapping[str, Any]) -> list[Slot]:
    """The filled slots of one host condition (the dict of a conditioning entry)."""
    carried = condition.get("model_conds", {}).get(SLOTS)
    if carried is None:
        return []
    return [slot for slot in map(tuple, carried.cond[0].tolist()) if slot[0] >= 0]


def with_slots(model_conds: Mapping[str, Any], slots: Sequence[Slot]) -> dict[str, Any]:
    """A copy of ``model_conds`` that carries ``slots``."""
    return {**model_conds, SLOTS: UnreadSlots(payload(slots))}


def mark(context: Tensor, slots: Sequence[Slot]) -> None:
    """Leaves ``slots`` on the text context itself, for where the host keeps nothing else of what a
    text model gives: a CLIP whose hooks follow a schedule."""
    setattr(context, SLOTS, tuple(slots))


def settled(condition: dict[str, Any]) -> dict[str, Any]:
    """The condition as it will run: none of its slots if its context is all zero, and the
    context's true length, which nodes that join conditionings change."""
    context = condition.get("cross_attn")
    slots = slots_of(condition)
    if SLOTS not in condition.get("model_conds", {}):
        # Only now: for areas the host later puts the positive's context into the negative's list.
        slots = list(getattr(context, SLOTS, ()))
    if not slots or context is None:
        return condition
    length = context.shape[1]
    kept = [(subject, row, length) for subject, row, _ in slots] if bool(context.any()) else []
    return {**condition, "model_conds": with_slots(condition.get("model_conds", {}), kept)}


def fill(
    conds: Iterable[list[dict[str, Any]] | None], latent: tuple[int, int, int] | None
) -> list[list[dict[str, Any]] | None]:
    """Gives every condition a payload of one size, so that the host runs them as one batch.

    ``latent``: (images, height, width) of the whole latent, to carry where each row of a model
    call lies in it; None where nothing asks for that.
    """
    lists = list(conds)
    width = max((len(slots_of(cond)) for conds in lists for cond in conds or ()), default=0)
    return [
        None if conds is None else [_filled(cond, max(width, 1), latent) for cond in conds]
        for conds in lists
    ]


def _filled(
    condition: dict[str, Any], width: int, latent: tuple[int, int, int] | None
) -> dict[str, Any]:
    slots = slots_of(condition)
    padded = slots + [(-1, -1, -1)] * (width - len(slots))
    model_conds = {**condition["model_conds"], SLOTS: CONDRegular(payload(padded))}
    if latent is not None:
        model_conds[REGION] = CONDNoiseShape(_coordinates(*latent))
        model_conds[LATENT] = CONDRegular(torch.tensor([latent[1:]]))
    return {**condition, "model_conds": model_conds}


@lru_cache(maxsize=4)
def _coordinates(images: int, height: int, width: int) -> Tensor:
    sides = [torch.arange(side, dtype=torch.int32) for side in (images, height, width)]
    image, y, x = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([y, x, image], dim=1)
