"""The shipped miniature as the host's MODEL, CLIP, VAE and CLIP_VISION; nothing is registered."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from .memory import in_patcher

MODELS = Path(__file__).resolve().parents[2] / "models"
FILE = MODELS / "miniature.safetensors"
METADATA_KEY = "nested_attention_miniature"
VOCABULARY_SIZE = 49408


class Miniature(NamedTuple):
    """The four sockets of Load Miniature."""

    model: Any
    clip: Any
    vae: Any
    clip_vision: Any


class _Latents(comfy.latent_formats.LatentFormat):
    latent_channels = 16


class _Config(comfy.supported_models.SD15):
    """A rectified flow in the shape of SD1.5; never put into the host's list of models."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = _Latents
    supported_inference_dtypes = [torch.float32]

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> Any:
        return comfy.model_base.ModelType.FLOW

    def inpaint_model(self) -> bool:
        return False  # the host would take any UNet of more than four channels for one


def is_miniature(model: Any) -> bool:
    """Whether a host MODEL is the miniature, or a clone of it."""
    return isinstance(model.model.model_config, _Config)


def read(path: Path = FILE) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The parts' state dicts ("unet", "text", "vae", "vision") in fp32, and the metadata.

    Raises NestedAttentionError where the file is missing, truncated or another one.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
            parts: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part, rest = name.split(".", 1)
                parts.setdefault(part, {})[rest] = file.get_tensor(name).float()
    except FileNotFoundError as error:
        raise NestedAttentionError(
            f"The miniature's weights are missing ({path.name}); install the pack again, or train "
            "them with: python3 dev.py train export."
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise NestedAttentionError(
            f"{path.name} is not the miniature's weights or is damaged; install the pack again."
        ) from error
    return parts, about


def load_miniature(path: Path = FILE) -> Miniature:
    """Builds the four models of the miniature from its file."""
    parts, about = read(path)
    return Miniature(
        model_from(parts["unet"], about["unet"]),
        clip_from(parts["text"], about["text"], about["token_ids"]),
        vae_from(parts["vae"], about["vae"]),
        vision_from(parts["vision"], about["vision"]),
    )


def model_from(weights: dict[str, Tensor], sizes: dict[str, Any]) -> Any:
    """The host's BaseModel around its UNet, in the host's patcher."""
    config = _Config(sizes)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    model.diffusion_model.load_state_dict(weights)
    return in_patcher(model)


def clip_from(weights: dict[str, Tensor], sizes: dict[str, Any], token_ids: list[int]) -> Any:
    """The host's SD1 text encoder with the host's tokenizer.

    The file holds the rows of known words only; every other word reads as row 0, "unknown".
    """
    weights = dict(weights)
    known = weights.pop("token_embedding.weight")
    table = known[0].expand(VOCABULARY_SIZE, -1).clone()
    table[torch.tensor(token_ids)] = known[1:]
    state = {"embeddings.token_embedding.weight": table}
    state["embeddings.position_embedding.weight"] = weights.pop("position_embedding.weight")
    state.update(weights)

    class TextModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            options = {**(model_options or {}), "clip_l_model_config": sizes}
            super().__init__(device=device, dtype=dtype, model_options=options)

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, TextModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    transformer = clip.cond_stage_model.clip_l.transformer
    transformer.text_projection.load_state_dict({"weight": torch.eye(sizes["hidden_size"])})
    transformer.text_model.load_state_dict(state)
    return clip


def vae_from(weights: dict[str, Tensor], sizes: dict[str, Any]) -> Any:
    """The host's AutoencoderKL."""
    vae = comfy.sd.VAE(sd=weights, config={"params": sizes}, dtype=torch.float32)
    vae.latent_channels = sizes["embed_dim"]
    return vae


def vision_from(weights: dict[str, Tensor], sizes: dict[str, Any]) -> Any:
    """The host's CLIP vision model; hosts before 0.22 take its sizes from a file only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vision.json"
        path.write_text(json.dumps(sizes), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    vision.model.load_state_dict(weights)
    return vision
