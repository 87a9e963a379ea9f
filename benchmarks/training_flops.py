"""What a training step costs by count: operations and bytes of SD1.5 and SDXL with an encoder.

Everything is built by the host's own classes on the "meta" device, which has shapes and no numbers,
so that it runs anywhere in a minute: python benchmarks/training_flops.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "commands")]

import pack  # noqa: E402
from full_size_models import BASES, UNET  # noqa: E402

# Image features of the usual ViT-H: 257 tokens of width 1280.
FEATURES = (257, 1280)
VIT_H = {
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
EDGES = {"sd15": 512, "sdxl": 1024}


@dataclass(frozen=True)
class Counts:
    """Operations (multiply and add counted apart) for one example, and weights.

    base        one pass of the frozen UNet; nested: what the encoder and its sites add to it
    step        forward and backward with checkpointing, as the trainer runs it
    vae, vision what makes latents and features, once a picture where they are cached
    """

    base: float
    nested: float
    backward: float
    vae: float
    vision: float
    base_weights: int
    trained_weights: int

    @property
    def step(self) -> float:
        """Checkpointing computes the forward pass twice."""
        return 2 * (self.base + self.nested) + self.backward


def counted(call: Any) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def denoiser(family: str) -> Any:
    unet_module = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    operations = importlib.import_module("comfy.ops").disable_weight_init
    unet = unet_module.UNetModel(**UNET, **BASES[family], device="meta", operations=operations)
    return pack.module("nodes.host.training").PatchedDenoiser(unet)


def encoder(family: str, sites: Any) -> Any:
    module = pack.module("nested_attn_core.encoder")
    wanted = pack.module("nested_attn_core.training.config_file").load_config(
        ROOT / "configs" / f"{family}.toml"
    )
    sizes = wanted.encoder
    config = module.EncoderConfig(
        feature_dim=FEATURES[1],
        tokens=sizes.tokens,
        token_dim=BASES[family]["context_dim"],
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        head_dim=sizes.width // sizes.heads,
        ff_mult=sizes.ff_mult,
        sites=sites,
    )
    return module.NestedEncoder(config, device="meta")


def count(family: str, edge: int) -> Counts:
    import torch

    denoise = denoiser(family)
    trained = encoder(family, denoise.sites)
    attention = pack.module("nested_attn_core.attention")
    methods = pack.module("nested_attn_core.training.methods")
    method = methods.NestedMethod(trained, attention.NormControl("text", 2.0), 1.0)
    side, width = edge // 8, BASES[family]["context_dim"]
    noised = torch.empty(1, 4, side, side, device="meta")
    sigma = torch.empty(1, device="meta")
    context = torch.empty(1, 77, width, device="meta")
    features = torch.empty(1, *FEATURES, device="meta")
    positions = torch.tensor([[5]])
    adm = BASES[family]["adm_in_channels"]
    extra = {} if adm is None else {"y": torch.empty(1, adm, device="meta")}

    def plain() -> Any:
        return denoise(noised, sigma, context, {}, **extra)

    def nested() -> Any:
        injection = method(features, context, positions)
        return denoise(noised, sigma, injection.context, injection.sites, **extra)

    def whole() -> None:
        nested().square().mean().backward()

    # The counter's hooks take no parameters that ask for gradients where there are none.
    trained.requires_grad_(False)
    base, forward = counted(plain), counted(nested)
    trained.requires_grad_(True)
    return Counts(
        base=base,
        nested=forward - base,
        backward=counted(whole) - forward,
        vae=vae_operations(edge),
        vision=vision_operations(),
        base_weights=sum(p.numel() for p in denoise.diffusion_model.parameters()),
        trained_weights=sum(p.numel() for p in trained.parameters()),
    )


def vae_operations(edge: int) -> float:
    import torch

    module = importlib.import_module("comfy.ldm.modules.diffusionmodules.model")
    with torch.device("meta"), torch.no_grad():
        part = module.Encoder(**VAE)
        # The attention in the middle is chosen for a device; on "meta" any will do.
        return counted(lambda: part(torch.empty(1, 3, edge, edge)))


def vision_operations() -> float:
    import torch

    module = importlib.import_module("comfy.clip_model")
    operations = importlib.import_module("comfy.ops").manual_cast
    part = module.CLIPVisionModelProjection(VIT_H, torch.float32, "meta", operations)
    with torch.no_grad():
        return counted(lambda: part(pixel_values=torch.empty(1, 3, 224, 224, device="meta")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--base", choices=BASES, action="append", help="default: both")
    arguments = parser.parse_args()
    pack.start_host(cpu=True)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    found = {name: count(name, EDGES[name]) for name in arguments.base or BASES}
    if arguments.json:
        print(json.dumps({name: vars(one) for name, one in found.items()}, indent=1))
        return 0
    for name, one in found.items():
        print(f"{name}, {EDGES[name]} px, one example, in tera-operations:")
        print(f"  forward, base alone          {one.base / 1e12:8.2f}")
        print(f"  forward, what nesting adds   {one.nested / 1e12:8.2f}")
        print(f"  backward                     {one.backward / 1e12:8.2f}")
        print(f"  a step with checkpointing    {one.step / 1e12:8.2f}")
        print(f"  latents (VAE), once          {one.vae / 1e12:8.2f}")
        print(f"  image features (ViT-H), once {one.vision / 1e12:8.2f}")
        print(f"  weights of the base          {one.base_weights / 1e6:8.1f} million")
        print(f"  weights that train           {one.trained_weights / 1e6:8.1f} million")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
