"""Where the host attends with PyTorch, output and normaliser of a site come from one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.ldm.modules import attention as host_attention

from .conftest import World, differs, pack

MASK = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each site that asks for attention and normaliser in one pass, whether it got them."""
    found: list[bool] = []
    patch = pack("nodes.host.patch")
    attend = patch.attention_with_normaliser

    def counted(*args: Any) -> Any:
        result = attend(*args)
        found.append(result is not None)
        return result

    monkeypatch.setattr(patch, "attention_with_normaliser", counted)
    return found


def test_where_the_host_attends_with_pytorch_each_site_takes_one_pass(
    world: World, passes: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU with --use-pytorch-cross-attention; the result is that of the plain way."""
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.attention_pytorch)
    patch = pack("nodes.host.patch")
    attend = patch.nested_attention
    errors: list[float] = []

    def both(base: Any, q: Any, k: Any, v: Any, subjects: Any, heads: int, *known: Any) -> Any:
        assert known[0] is not None and torch.equal(
            base, host_attention.attention_pytorch(q, k, v, heads)
        )
        plain = attend(base.clone(), q, k, v, subjects, heads)
        fast = attend(base, q, k, v, subjects, heads, *known)
        errors.append(float((fast - plain).abs().max() / plain.abs().max()))
        return fast

    subject = world.subject(mask=MASK, token_weight=4.0)
    model, clip = world.apply(subject)
    positive, negative = world.encode("a photo of <anna>", clip), world.encode("")
    # A patch takes the one pass for this function only, and calls what it was made with.
    with monkeypatch.context() as watched:
        watched.setattr(patch, "nested_attention", both)
        for site in patched(model):
            watched.setattr(site, "_attend", both)
        fast = world.sample(positive, negative, model)
    calls = 2 * len(pack("nodes.host.sites").discover_sites(world.model.model.diffusion_model))
    assert passes == [True] * calls and len(errors) == calls  # two steps
    assert max(errors) <= 1e-5
    monkeypatch.setattr(patch, "attention_with_normaliser", lambda *_: None)
    plain = world.sample(positive, negative, model)
    assert len(passes) == calls
    assert (fast - plain).norm() <= 2e-5 * plain.norm()
    assert differs(fast, world.sample(world.encode("a photo of person"), negative))


def patched(model: Any) -> list[Any]:
    """The patches of ours on a model's sites."""
    replaced = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    return [site for site in replaced.values() if type(site).__name__ == "NestedPatch"]


def test_elsewhere_the_host_s_own_attention_is_called(sd15: World, passes: list[bool]) -> None:
    assert host_attention.optimized_attention is not host_attention.attention_pytorch
    model, clip = sd15.apply(sd15.subject())
    sd15.sample(sd15.encode("a photo of <anna>", clip), sd15.encode(""), model, steps=1)
    assert passes == []
