"""Fifty runs hold no more than ten."""

from __future__ import annotations

import gc
from collections import Counter

import torch

from .conftest import PACK, World

RUNS, WARM = 50, 10
MASK = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))


def held() -> tuple[Counter[str], int]:
    """Objects by type, and bytes of all tensors. PyTorch keeps a Python object for each storage
    that was asked for, so that the first call of all counts none of them."""
    gc.collect()
    objects = gc.get_objects()
    bytes_by_place = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in objects
        if type(item) in (torch.Tensor, torch.nn.Parameter)
    }
    names = Counter(f"{type(item).__module__}.{type(item).__qualname__}" for item in objects)
    return names, sum(bytes_by_place.values())


def grown(world: World) -> tuple[dict[str, int], int]:
    """By how much each type's count and the tensors' bytes grow from run 10 to run 50."""
    subject = world.subject(mask=MASK)
    positive = world.encode("a photo of <anna>", world.apply(subject)[1])
    negative = world.encode("")
    before: tuple[Counter[str], int] = Counter(), 0
    for number in range(RUNS):
        # As when a slider is moved: a new clone for each run.
        model, _ = world.apply(subject, strength=1 - number / 100)
        world.sample(positive, negative, model, steps=1, cfg=1.0, size=(8, 8))
        if number + 1 == WARM:
            held()
            before = held()
    after = held()
    names = before[0].keys() | after[0].keys()
    differences = {name: after[0][name] - before[0][name] for name in names}
    return {name: n for name, n in differences.items() if n}, after[1] - before[1]


def test_nothing_grows_from_run_to_run(sd15: World) -> None:
    objects, tensor_bytes = grown(sd15)
    assert tensor_bytes == 0
    assert not {name for name in objects if name.startswith(PACK.replace(".", "_x_"))}
    # A leak of one object a run would be 40.
    assert abs(sum(objects.values())) <= 10
