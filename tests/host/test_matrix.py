"""Every base family, in every number format and memory mode: it runs, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management as management
import comfy.sd
import comfy.supported_models as supported
import pytest
import torch

from .bases import DTYPES, KINDS, Bases, Refiner, base_model, memory_mode
from .conftest import World, differs
from .test_bad_input import sentence

MODES = ("normal", "lowvram", "novram")
FORMATS = (*DTYPES, "packed")
PROMPT = "a photo of <anna> on a beach"
PLAIN = "a photo of person on a beach"


@pytest.fixture(scope="module")
def bases(worlds: Any, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(worlds, tmp_path_factory.mktemp("bases"))


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


def image(world: World, model: Any, clip: Any, text: str) -> torch.Tensor:
    """One step; inpaint and edit models get the picture that they work on."""
    # Else the host loads a little more in each run, and bakes a LoRA into other layers each time.
    management.unload_all_models()
    conditions = [world.encode(words, clip) for words in (text, "blurry")]
    if model.model.model_config.unet_config["in_channels"] > 4:
        generator = torch.Generator().manual_seed(6)
        added = {
            "concat_latent_image": torch.randn(1, 4, 8, 16, generator=generator),
            "concat_mask": torch.ones(1, 1, 8, 16),
        }
        conditions = [[[text, {**rest, **added}] for text, rest in cond] for cond in conditions]
    positive, negative = conditions
    return world.sample(positive, negative, model, steps=1, size=(8, 16))


def check(world: World) -> None:
    """A finite image, changed by the subject, and at strength 0 that of no node."""
    plain = image(world, world.model, world.clip, PLAIN)
    on = image(world, *world.apply(world.subject()), PROMPT)
    off = image(world, *world.apply(world.subject(), strength=0.0), PROMPT)
    assert torch.isfinite(on).all() and plain.std() > 0
    assert differs(on, plain)
    assert torch.equal(off, plain)


# Every cell of the two main families, and each kind, format and mode of the others at least once.
CELLS = [
    (name, number_format, mode)
    for name in KINDS
    for number_format in FORMATS
    for mode in MODES
    if name in ("sd15", "sdxl")
    or (number_format, mode) in (("fp16", "normal"), ("fp8", "lowvram"), ("packed", "novram"))
]


@pytest.mark.parametrize(("name", "number_format", "mode"), CELLS)
def test_a_subject_acts(
    bases: Bases, patch: pytest.MonkeyPatch, name: str, number_format: str, mode: str
) -> None:
    world = bases(name, number_format)
    size = world.model.model_size()
    with memory_mode(mode, size, patch):
        check(world)
        share = world.model.loaded_size() / size
    limits = {"normal": (1, 1), "lowvram": (0.05, 0.9), "novram": (0, 0.02)}[mode]
    assert limits[0] <= share <= limits[1]


def distilled(model: Any, rank: int = 4) -> Any:
    """A clone with a LoRA on its attention, by the host's own loader."""
    generator = torch.Generator().manual_seed(7)
    lora: dict[str, torch.Tensor] = {}
    for name, part in model.model.diffusion_model.named_modules():
        if name.endswith(("attn1.to_q", "attn2.to_k", "attn2.to_v")):
            key = f"lora_unet_{name.replace('.', '_')}"
            up = torch.randn(part.out_features, rank, generator=generator)
            down = torch.randn(rank, part.in_features, generator=generator)
            lora |= {f"{key}.lora_up.weight": up * 0.1, f"{key}.lora_down.weight": down * 0.1}
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    return patched


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number_format", ["fp32", "fp8"])
def test_a_subject_acts_on_a_base_with_a_lora(
    bases: Bases, patch: pytest.MonkeyPatch, number_format: str, mode: str
) -> None:
    plain = bases("sdxl", number_format)
    world = replace(plain, model=distilled(plain.model))
    with memory_mode(mode, plain.model.model_size(), patch):
        check(world)
        without = image(plain, plain.model, plain.clip, PLAIN)
        assert differs(image(world, world.model, world.clip, PLAIN), without)


def test_a_lora_put_on_after_the_subject(bases: Bases) -> None:
    world = bases("sdxl")
    before = image(world, *world.apply(world.subject(), model=distilled(world.model)), PROMPT)
    model, clip = world.apply(world.subject())
    assert torch.equal(image(world, distilled(model), clip, PROMPT), before)


def test_the_refiner_is_refused_with_what_to_do(bases: Bases) -> None:
    world = bases("sdxl")
    with pytest.raises(ValueError) as error:
        world.apply(world.subject(), model=base_model(Refiner, "fp32"))
    assert "the SDXL base model" in sentence(error) and "refiner" in sentence(error)


@pytest.mark.parametrize(
    ("name", "other"), [("sd15", "sd2 v-prediction"), ("sd2 v-prediction", "sd15")]
)
def test_families_with_the_same_sites_are_told_apart(bases: Bases, name: str, other: str) -> None:
    world, stranger = bases(name), bases(other)
    sites = [world.encoder.info.config.sites, stranger.encoder.info.config.sites]
    assert sites[0] == sites[1]
    with pytest.raises(ValueError) as error:
        world.apply(stranger.subject())
    assert f"({stranger.family}, " in sentence(error) and f"({world.family}, " in sentence(error)


FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 8,
    "context_in_dim": 8,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "theta": 100,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
SD3 = {
    "in_channels": 16,
    "depth": 2,
    "num_patches": 64,
    "adm_in_channels": 8,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 8, "out_features": 128},
    },
}
PIXART = {
    "image_model": "pixart_alpha",
    "num_heads": 2,
    "hidden_size": 32,
    "depth": 1,
    "caption_channels": 8,
    "micro_condition": False,
}
VIDEO = {
    **KINDS["sd15"][0].unet_config,
    "in_channels": 8,
    "num_classes": "sequential",
    "adm_in_channels": 768,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "video_kernel_size": [3, 1, 1],
    "merge_factor": 0.0,
    "merge_strategy": "learned_with_images",
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
}


@pytest.mark.parametrize(
    ("kind", "sizes", "says"),
    [
        (supported.Flux, FLUX, "joint attention"),
        (supported.SD3, SD3, "joint attention"),
        (supported.PixArtAlpha, PIXART, "no cross-attention that a patch can reach"),
        (supported.SVD_img2vid, VIDEO, "no cross-attention that a patch can reach"),
    ],
    ids=["Flux", "SD3", "PixArt", "SVD"],
)
def test_models_in_which_no_subject_can_act(bases: Bases, kind: Any, sizes: Any, says: str) -> None:
    config = kind(sizes)
    config.set_inference_dtype(torch.float32, None)
    world = bases("sd15")
    model = world.model.clone()
    model.model = config.get_model({}, "", device="meta")
    with pytest.raises(ValueError) as error:
        world.apply(world.subject(), model=model)
    assert says in sentence(error) and "SD1.5, SD2 or SDXL" in sentence(error)
