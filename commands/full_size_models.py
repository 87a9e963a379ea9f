"""Models of full size by the host's own classes, with random weights, so that no file is needed.

Thin ones have the same layout, hence the same cross-attention sites, and run in seconds.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack

UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "model_channels": 320,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
BASES = {
    "sd15": {
        "adm_in_channels": None,
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "num_heads": 8,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "sdxl": {
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "channel_mult": [1, 2, 4],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_head_channels": 64,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
}
SITES = {"sd15": 16, "sdxl": 70}
DTYPES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
}
# Thin: every width divided, every depth, block and site as in full size.
_THIN_UNET = {
    "sd15": {"model_channels": 32, "context_dim": 64, "num_heads": 4},
    "sdxl": {
        "model_channels": 32,
        "context_dim": 160,
        "num_head_channels": 16,
        "adm_in_channels": 96 + 1536,
    },
}
_THIN_TEXT = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
}
_THIN_VISION = {
    "hidden_size": 48,
    "image_size": 32,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "projection_dim": 32,
}
# The resampler of IP-Adapter Plus for SDXL, whose sizes the authors' release is taken to share.
_RESAMPLER = {"width": 1280, "depth": 4, "heads": 20, "head_dim": 64, "ff_mult": 4}
_THIN_RESAMPLER = {"width": 32, "depth": 1, "heads": 2, "head_dim": 16, "ff_mult": 2}


@dataclass(frozen=True)
class RandomModels:
    """The models that a user would load, one at a time; ``thin`` for tests.

    family  "sd15" or "sdxl"
    dtype   of the base's weights: a key of DTYPES
    """

    family: str
    dtype: str = "bf16"
    thin: bool = False

    def base(self) -> Any:
        """The host's MODEL; it computes in the dtype that the host itself would choose."""
        import torch

        supported = importlib.import_module("comfy.supported_models")
        management = importlib.import_module("comfy.model_management")
        sizes = {**UNET, **BASES[self.family], **(_THIN_UNET[self.family] if self.thin else {})}
        config = {"sd15": supported.SD15, "sdxl": supported.SDXL}[self.family](sizes)
        config.unet_config.update({key: sizes[key] for key in _HEADS & sizes.keys()})
        dtype = getattr(torch, DTYPES[self.dtype])
        device = management.get_torch_device()
        config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device))
        model = config.get_model({}, "", device=management.unet_offload_device())
        fill(model.diffusion_model)
        return pack.module("nodes.host.memory").in_patcher(model)

    def text(self) -> Any:
        """The host's CLIP of the family, in the host's dtype."""
        sd = importlib.import_module("comfy.sd")
        supported = importlib.import_module("comfy.supported_models")
        kind = {"sd15": supported.SD15, "sdxl": supported.SDXL}[self.family]
        target = kind.clip_target(kind)  # uses nothing of an instance
        options: dict[str, Any] = {}
        if self.thin:
            wide = {**_THIN_TEXT, "hidden_size": 96}
            options = {"clip_l_model_config": _THIN_TEXT, "clip_g_model_config": wide}
        clip = sd.CLIP(target, model_options=options)
        fill(clip.cond_stage_model)
        return clip

    def vision(self) -> Any:
        """The host's CLIP_VISION: ViT-H."""
        module: Any = importlib.import_module("comfy.clip_vision")
        path = Path(module.__file__).with_name("clip_vision_config_h.json")
        if not self.thin:
            vision = module.ClipVisionModel(str(path))
        else:
            sizes = {**json.loads(path.read_text(encoding="utf-8")), **_THIN_VISION}
            with tempfile.TemporaryDirectory() as folder:
                thin = Path(folder) / "vision.json"
                thin.write_text(json.dumps(sizes), encoding="utf-8")
                vision = module.ClipVisionModel(str(thin))
        fill(vision.model)
        return vision

    def write_encoder(self, path: Path, base: Any, vision: Any, tokens: int) -> None:
        """The file, in fp16, of an encoder that fits ``base`` and ``vision``."""
        import torch

        checkpoint = pack.module("nested_attn_core.checkpoint")
        encoders = pack.module("nested_attn_core.encoder")
        fingerprint = pack.module("nested_attn_core.fingerprint").weights_fingerprint
        unet = base.model.diffusion_model
        config = encoders.EncoderConfig(
            feature_dim=_THIN_VISION["hidden_size"] if self.thin else 1280,
            tokens=tokens,
            token_dim=base.model.model_config.unet_config["context_dim"],
            sites=pack.module("nodes.host.sites").discover_sites(unet),
            **(_THIN_RESAMPLER if self.thin else _RESAMPLER),
        )
        encoder = encoders.NestedEncoder(config, dtype=torch.float16)
        fill(encoder)
        info = checkpoint.EncoderInfo(
            base_family=self.family,
            config=config,
            backbone=checkpoint.Backbone(
                "a random ViT-H", fingerprint(vision.model.state_dict()), vision.image_size
            ),
            domain="person",
            class_word="person",
        )
        checkpoint.save_encoder(path, encoder, info)


# Which of them holds depends on the family; the host's classes set both.
_HEADS = {"num_heads", "num_head_channels"}


def fill(model: Any) -> None:
    """Weights that keep signals alive: gains 1, biases 0, matrices random (in repeating blocks)
    with the variance of their width."""
    import torch

    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part in model.modules():
            norm = isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm))
            for name, weight in part.named_parameters(recurse=False):
                _fill(weight.data, norm and name == "weight", block)


def _fill(weight: Any, norm: bool, block: Any) -> None:
    import torch

    if weight.ndim < 2:
        weight.copy_(torch.full(weight.shape, 1.0 if norm else 0.0))
        return
    scaled = block * weight[0].numel() ** -0.5
    flat = weight.view(-1)
    for first in range(0, len(flat), len(block)):
        part = flat[first : first + len(block)]
        part.copy_(scaled[: len(part)])
