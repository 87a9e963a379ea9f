"""Thin base models of the kinds that users load, by the host's own classes, in many formats."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models as supported
import comfy.supported_models_base
import comfy.text_encoders.sd2_clip
import torch

from .conftest import (
    FAMILIES,
    L_CONFIG,
    UNET,
    TinySD15,
    TinySDXL,
    World,
    pack,
    randomise,
    write_encoder,
)

H_CONFIG = {**L_CONFIG, "hidden_size": 80}
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}
# One width at every level, and SDXL of fewer layers, as its distillations have: other tests go
# through the real layouts.
SLIM = {**TinySD15.unet_config, "channel_mult": [1, 1, 1, 1]}
SHALLOW = {
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
}


class TinyH(comfy.text_encoders.sd2_clip.SD2ClipModel):
    """OpenCLIP H of width 80."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        options = {**(model_options or {}), "clip_h_model_config": H_CONFIG}
        super().__init__(device=device, dtype=dtype, model_options=options)


class TinySD2(supported.SD20):
    """Thin SD2.1: the sites of SD1.5, another text encoder, and v-prediction."""

    unet_config = {**SLIM, "context_dim": 80, "use_linear_in_transformer": True}
    unet_extra_config = {"num_heads": -1, "num_head_channels": 8, "attn_precision": torch.float32}
    text = comfy.supported_models_base.ClipTarget(comfy.text_encoders.sd2_clip.SD2Tokenizer, TinyH)

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


class SlimSD15(TinySD15):
    unet_config = SLIM


class ShallowSDXL(TinySDXL):
    unet_config = {**TinySDXL.unet_config, **SHALLOW}


class VPredictedSDXL(ShallowSDXL):
    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


class InpaintSD15(TinySD15):
    unet_config = {**SLIM, "in_channels": 9}


class InpaintSDXL(ShallowSDXL):
    unet_config = {**ShallowSDXL.unet_config, "in_channels": 9}


class EditedSD15(TinySD15):
    """InstructPix2Pix."""

    unet_config = {**SLIM, "in_channels": 8}
    get_model = supported.SD15_instructpix2pix.get_model


class EditedSDXL(ShallowSDXL):
    unet_config = {**ShallowSDXL.unet_config, "in_channels": 8}
    get_model = supported.SDXL_instructpix2pix.get_model


class Refiner(supported.SDXLRefiner):
    """Thin SDXL refiner."""

    unet_config = {
        **UNET,
        "num_classes": "sequential",
        "context_dim": 96,
        "adm_in_channels": 96 + 1280,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [0, 0, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": True,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}


# Name: (the host's configuration, the family of its encoders)
KINDS: dict[str, tuple[Any, str]] = {
    "sd15": (SlimSD15, "sd15"),
    "sd15 inpaint": (InpaintSD15, "sd15"),
    "sd15 pix2pix": (EditedSD15, "sd15"),
    "sd2 v-prediction": (TinySD2, "sd2"),
    "sdxl": (ShallowSDXL, "sdxl"),
    "sdxl v-prediction": (VPredictedSDXL, "sdxl"),
    "sdxl inpaint": (InpaintSDXL, "sdxl"),
    "sdxl pix2pix": (EditedSDXL, "sdxl"),
}


class Dequantised(comfy.ops.manual_cast):
    """Operations whose linear layers hold packed integers, and numbers only while they compute.

    As packs for quantised files do it; the weight here is one flat tensor, so that nothing may
    read a layer's size from it.
    """

    class Linear(torch.nn.Module, comfy.ops.CastWeightBiasOp):
        comfy_cast_weights = True

        def __init__(self, width, out, bias=True, device=None, dtype=None):
            super().__init__()
            self.size = (out, width)
            packed = torch.zeros(out * width, dtype=torch.uint8, device=device)
            self.weight = torch.nn.Parameter(packed, requires_grad=False)
            self.scale = torch.nn.Parameter(torch.zeros(out, 1, device=device), requires_grad=False)
            self.bias = torch.nn.Parameter(torch.zeros(out, device=device)) if bias else None

        def pack(self, weight: torch.Tensor) -> None:
            scale = weight.abs().amax(1, keepdim=True) / 127
            self.scale.data = scale
            self.weight.data = ((weight / scale).round() + 128).to(torch.uint8).flatten()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            whole = (self.weight.to(x).unflatten(0, self.size) - 128) * self.scale.to(x)
            for function in self.weight_function:
                whole = function(whole)
            return torch.nn.functional.linear(
                x, whole, None if self.bias is None else self.bias.to(x)
            )


def base_model(kind: Any, number_format: str) -> Any:
    """A MODEL of random weights, in a key of DTYPES or as "packed" integers."""
    config = kind(dict(kind.unet_config))
    packed = number_format == "packed"
    dtype = torch.float32 if packed else DTYPES[number_format]
    device = management.get_torch_device()
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device))
    if packed:
        config.custom_operations = Dequantised
    base = config.get_model({}, "", device="cpu")
    _fill(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(
        base, load_device=device, offload_device=management.unet_offload_device()
    )


def _fill(unet: torch.nn.Module) -> None:
    """conftest.randomise, for any number format."""
    generator = torch.Generator().manual_seed(5)
    for part in unet.modules():
        if isinstance(part, Dequantised.Linear):
            part.pack(torch.randn(part.size, generator=generator) * 0.08)
            continue
        norm = isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm))
        for name, weight in part.named_parameters(recurse=False):
            if weight.ndim < 2:
                weight.data.copy_(torch.full(weight.shape, float(norm and name == "weight")))
            else:
                weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.08)


class Bases:
    """Worlds by kind and number format, each built once."""

    def __init__(self, worlds: Callable[[str], World], folder: Path):
        self._worlds = worlds
        self._folder = folder
        self._built: dict[tuple[str, str], World] = {}
        self._clips: dict[Any, Any] = {}

    def __call__(self, name: str, number_format: str = "fp32") -> World:
        key = (name, number_format)
        if key not in self._built:
            with torch.inference_mode(False), torch.no_grad():
                self._built[key] = self._build(*key)
        return self._built[key]

    def _build(self, name: str, number_format: str) -> World:
        kind, family = KINDS[name]
        model = base_model(kind, number_format)
        vision = self._worlds("sd15").vision
        path = self._folder / f"{name} {number_format}.safetensors"
        write_encoder(path, model.model.diffusion_model, vision, family)
        encoder = pack("nodes.host.memory").load(path, path.name)
        return World(family, model, self._clip(kind, family), vision, encoder)

    def _clip(self, kind: Any, family: str) -> Any:
        if family in FAMILIES:
            return self._worlds(family).clip
        if kind.text not in self._clips:
            clip = comfy.sd.CLIP(kind.text)
            randomise(clip.cond_stage_model, 2)
            self._clips[kind.text] = clip
        return self._clips[kind.text]


@contextmanager
def memory_mode(mode: str, free: float, patch: Any):
    """The host's --lowvram or --novram with ``free`` bytes, or "normal".

    Only what the host thinks of the device is changed: that it is not the CPU, and how much of it
    is free. What is loaded, left behind and brought over for each layer is the host's own work.
    """
    if mode != "normal":
        wished = {"lowvram": "LOW_VRAM", "novram": "NO_VRAM"}[mode]
        patch.setattr(management, "vram_state", management.VRAMState[wished])
        patch.setattr(management, "is_device_cpu", lambda device: False)
        patch.setattr(management, "minimum_inference_memory", lambda: 0)
        patch.setattr(management, "extra_reserved_memory", lambda: 0)
        patch.setattr(
            management,
            "get_free_memory",
            lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free,
        )
    management.unload_all_models()
    try:
        yield
    finally:
        management.unload_all_models()
        patch.undo()
