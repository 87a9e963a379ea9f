"""run.compile: the base through torch.compile, with our patch on its sites."""

from __future__ import annotations

import functools
from dataclasses import replace

import comfy.model_patcher
import pytest
import torch

from .conftest import TinySD15, randomise
from .test_training import denoiser_of, frozen_models, gradients_of, random_batch

pytestmark = pytest.mark.usefixtures("gradients")


class Smallest(TinySD15):
    """Two sites, so that compiling takes seconds."""

    unet_config = {
        **TinySD15.unet_config,
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [1, 0],
        "transformer_depth_middle": -1,
    }


@pytest.fixture
def smallest(sd15):
    """The tiny world with that base."""
    config = Smallest(dict(Smallest.unet_config))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "", device="cpu")
    randomise(base.diffusion_model, 1)
    cpu = torch.device("cpu")
    return replace(sd15, model=comfy.model_patcher.ModelPatcher(base, cpu, cpu))


def test_a_compiled_base_gives_the_same_gradients(smallest, monkeypatch):
    """Traced by torch, but not turned into C++, which takes minutes."""
    quick = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", quick)
    batch = random_batch(frozen_models(smallest), 2)
    plain = gradients_of(smallest, denoiser_of(smallest), batch)
    compiled = denoiser_of(smallest)
    compiled.compile()
    torch._dynamo.utils.counters.clear()
    losses, gradients = gradients_of(smallest, compiled, batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert torch.allclose(plain[0], losses, rtol=1e-4)
    for name, gradient in plain[1].items():
        scale = float(gradient.abs().max())
        assert torch.allclose(gradient, gradients[name], rtol=1e-3, atol=1e-4 * scale), name


def test_without_a_compiler_it_is_told(smallest, monkeypatch):
    def none(*arguments, **options):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", none)
    with pytest.raises(ValueError, match=r"it says: No working C\+\+ compiler found\); install"):
        denoiser_of(smallest).compile()
