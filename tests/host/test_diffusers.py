"""A release-like file in the real host, against diffusers' own UNet with dense nested attention.

Same UNet weights (converted by the host's key map), same file, latents and conditioning; compared
at every cross-attention and at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file
from torch import Tensor

from release_files import PLACES, Release, named, release

from .conftest import FAMILIES, World, pack
from .dense_reference import DenseSubject, install

# Its newest release asks for Python 3.11, and older ones for another huggingface-hub.
diffusers: Any = pytest.importorskip("diffusers")

TOLERANCE = 1e-4
NAMES = ("anna", "rex", "bob")
FEATURES = torch.randn(len(NAMES), 9, 12, generator=torch.Generator().manual_seed(7))
UNET = {
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (2, 4, 8),
        "cross_attention_dim": 160,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 96 + 1536,
    },
    "sd15": {
        "block_out_channels": (32, 64, 128, 128),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "attention_head_dim": 4,
        "cross_attention_dim": 64,
    },
}


@dataclass
class Pair:
    """One family's UNet in the host and in diffusers, and a release for it."""

    family: str
    world: World
    model: Any
    unet: Any
    site_of: dict[str, str]
    release: Release


@dataclass
class Call:
    """What went into and out of the host's UNet, once."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    sites: dict[str, Tensor] = field(default_factory=dict)
    named_rows: list[int] = field(default_factory=list)


@pytest.fixture(scope="module", params=sorted(UNET))
def pair(request, worlds: Callable[[str], World]) -> Pair:
    family = request.param
    with torch.inference_mode(False), torch.no_grad():
        config = FAMILIES[family](dict(FAMILIES[family].unet_config))
        config.set_inference_dtype(torch.float32, None)
        base = config.get_model({}, "", device="cpu")
        lively_weights(base.diffusion_model)
        unet = diffusers.UNet2DConditionModel(sample_size=16, **UNET[family])
        keys = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
        state = base.diffusion_model.state_dict()
        wanted = unet.state_dict()
        unet.load_state_dict({name: state[keys[name]] for name in wanted}, strict=True)
    model = comfy.model_patcher.ModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    processors = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    site_of = {
        name: host_site(keys[name.replace("processor", "to_k.weight")]) for name in processors
    }
    unit = min(attention.to_k.weight.shape[0] for attention in cross_attentions(unet))
    return Pair(family, worlds(family), model, unet.eval(), site_of, release(family, unit))


def cross_attentions(unet: Any) -> list[Any]:
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


def lively_weights(module: torch.nn.Module) -> None:
    """Random weights with which every layer matters and outputs stay around one."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(noise * 0.1)
    for part in module.modules():
        if isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            part.weight.add_(1)


def host_site(key: str) -> str:
    """The host's name of a site from a key of its state dict."""
    parts = key.split(".")
    if parts[0] == "middle_block":
        return f"middle.0.{parts[parts.index('transformer_blocks') + 1]}"
    block = parts[0].removesuffix("_blocks")
    return f"{block}.{parts[1]}.{parts[parts.index('transformer_blocks') + 1]}"


def host_call(pair: Pair, path: Path, count: int, norm: str) -> Call:
    """One step of the stock sampler with the file's subjects, through the pack's nodes."""
    encoder = pack("nodes.host.memory").load(path, path.name)
    subjects = [
        encoder.subject(name, FEATURES[index][None]) for index, name in enumerate(NAMES[:count])
    ]
    model, clip = pair.world.apply(
        pack("nested_attn_core.subject").Subjects.of(*subjects), model=pair.model, norm=norm
    )
    call = Call()
    watch(model, call)
    # The class word is one token, after the start token.
    positive = pair.world.encode(" ".join(f"<{name}>" for name in NAMES[:count]), clip)
    pair.world.sample(positive, pair.world.encode("photo", clip), model, steps=1)
    return call


def watch(model: Any, call: Call) -> None:
    """Records the UNet's input and output and what leaves each cross-attention."""

    def unet(executor, x, timesteps, context=None, y=None, *args, **kwargs):
        options = next(a for a in (*args, *kwargs.values()) if isinstance(a, dict))
        # 0 is the positive conditioning.
        named = [n for n, kind in enumerate(options["cond_or_uncond"]) if kind == 0]
        output = executor(x, timesteps, context, y, *args, **kwargs)
        given = {"x": x, "t": timesteps, "context": context, "y": y}
        call.inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        call.output, call.named_rows = output, named
        return output

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", unet)
    patches = model.model_options["transformer_options"].get("patches_replace", {})
    for (block, number, index), patch in dict(patches.get("attn2", {})).items():

        def recorded(q, k, v, extra, below=patch, site=f"{block}.{number}.{index}"):
            call.sites[site] = below(q, k, v, extra)
            return call.sites[site]

        model.set_model_attn2_replace(recorded, block, number, index)


def reference_call(pair: Pair, call: Call, count: int, norm: str) -> tuple[Tensor, dict]:
    """The same call in diffusers: the output, and what leaves each cross-attention."""
    factor = 2.0 if norm != "none" else None
    subjects = [
        DenseSubject(pair.release.resampler(FEATURES[index][None])[0], 1 + index, factor)
        for index in range(count)
    ]
    outputs = install(pair.unet, pair.release.pairs, subjects, call.named_rows)
    added = {}
    if "y" in call.inputs:
        # The host's defaults for a latent of 16 x 16: sizes of 128 pixels, no crop.
        times = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(len(call.inputs["y"]), -1)
        added = {"text_embeds": call.inputs["y"][:, :96], "time_ids": times}
    result = pair.unet(
        call.inputs["x"],
        call.inputs["t"],
        encoder_hidden_states=call.inputs["context"],
        added_cond_kwargs=added,
    ).sample
    return result, {pair.site_of[name]: found[0] for name, found in outputs.items()}


def written(pair: Pair, folder: Path, pairs=None) -> Path:
    path = folder / "model.safetensors"
    made = pair.release if pairs is None else Release(pair.family, pair.release.resampler, pairs)
    save_file({name: t.clone() for name, t in named(made).items()}, path)
    return path


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def test_diffusers_numbers_its_processors_as_the_test_files_do(pair) -> None:
    names = [name for name in pair.unet.attn_processors if name.endswith("attn2.processor")]
    assert names == [place.path for place in PLACES[pair.family]]
    assert [pair.site_of[name] for name in names] == [p.site for p in PLACES[pair.family]]
    everything = list(pair.unet.attn_processors)
    assert [everything.index(name) for name in names] == list(range(1, 2 * len(names), 2))


@pytest.mark.parametrize("norm", ["as trained", "none"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_host_computes_what_diffusers_computes(pair, tmp_path, count, norm) -> None:
    call = host_call(pair, written(pair, tmp_path), count, norm)
    output, sites = reference_call(pair, call, count, norm)
    assert call.named_rows and len(call.inputs["x"]) == 2
    assert sites.keys() == call.sites.keys() == {p.site for p in PLACES[pair.family]}
    assert all(distance(call.sites[site], out) < TOLERANCE for site, out in sites.items())
    assert output.std() > 0.05 and distance(call.output, output) < TOLERANCE


@pytest.mark.parametrize("swap", ["up with mid", "neighbours"])
def test_a_single_swapped_site_is_seen(pair, tmp_path, swap) -> None:
    places = PLACES[pair.family]
    one = next(n for n, p in enumerate(places) if p.site.startswith("output"))
    other = one + 1 if swap == "neighbours" else len(places) - 1
    pairs = list(pair.release.pairs)
    pairs[one], pairs[other] = pairs[other], pairs[one]
    call = host_call(pair, written(pair, tmp_path, pairs), 1, "as trained")
    output, sites = reference_call(pair, call, 1, "as trained")
    for wrong in (one, other):
        site = places[wrong].site
        assert distance(call.sites[site], sites[site]) > 100 * TOLERANCE
    before = [p.site for p in places if p.site.startswith("input")]
    assert all(distance(call.sites[site], sites[site]) < TOLERANCE for site in before)
    assert distance(call.output, output) > 10 * TOLERANCE


def test_without_subjects_both_unets_are_the_same(pair, tmp_path) -> None:
    """What the comparison rests on, and that subjects change what it compares."""
    path = written(pair, tmp_path)
    call = host_call(pair, path, 1, "as trained")
    output, sites = reference_call(pair, call, 0, "as trained")
    place = PLACES[pair.family][0].site
    assert distance(call.sites[place], sites[place]) > 100 * TOLERANCE
    assert distance(call.output, output) > 10 * TOLERANCE
    bare, plain = pair.model.clone(), Call()
    watch(bare, plain)
    pair.world.sample(pair.world.encode("person"), pair.world.encode("photo"), bare, steps=1)
    assert distance(plain.output, reference_call(pair, plain, 0, "none")[0]) < TOLERANCE


def test_the_log_says_how_the_file_was_read(pair, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "nested_attention"):
        pack("nodes.host.memory").load(written(pair, tmp_path), "model.safetensors")
    assert '"model.safetensors" was read by its structure:' in caplog.text
    assert "middle.0, " in caplog.text and "adapter_modules." in caplog.text
