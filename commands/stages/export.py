"""Collects base, autoencoder and backbone into models/miniature.safetensors, in fp16."""

from __future__ import annotations

import argparse
import json

import torch

import pack

from . import shipped
from .common import MODELS, STATE, core, log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def averaged(stage: str) -> dict[str, torch.Tensor] | None:
    """The averaged weights of a stage's last save; None where it was not trained here."""
    state = core("training.checkpoints").load_state(STATE / stage / "state.pt")
    if state is None:
        log(f"{stage}: not trained here, stays as it ships")
        return None
    log(f"{stage}: step {state['step']}, {state['seconds']:.0f} s, loss {state['loss']:.4f}")
    return state["averaged"]


def strip(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def vision_state(tower: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vision tower under the host's names."""
    embeddings = ("class_embedding", "patch_embedding", "position_embedding")
    return {
        f"vision_model.{'embeddings.' if name.startswith(embeddings) else ''}{name}": tensor
        for name, tensor in tower.items()
    }


def parts(code: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    base, vae, backbone = (averaged(stage) for stage in ("base", "autoencoder", "backbone"))
    there: dict[str, dict[str, torch.Tensor]] = {}
    if None in (base, vae, backbone):
        there = shipped.parts("unet", "text", "vae", "vision")
    return {
        "code": {name: code[name] for name in ("mean", "basis", "scale")},
        "unet": strip(base, "unet.") if base else there["unet"],
        "text": strip(base, "text.") if base else there["text"],
        "vae": vae or there["vae"],
        "vision": vision_state(strip(backbone, "tower.")) if backbone else there["vision"],
    }


def about(token_ids: list[int]) -> dict:
    config = core("training.miniature.config")
    return {
        "unet": config.UNET,
        "text": config.TEXT,
        "vae": config.VAE,
        "vision": config.VISION,
        "token_ids": token_ids,
        "licence": "CC-BY-4.0 (trained on drawings made from parts under CC BY)",
    }


def run(arguments: argparse.Namespace) -> None:
    miniature = pack.module("nodes.host.miniature")
    code = core("training.checkpoints").load_state(STATE / "base" / "code.pt")
    tensors = {
        # All weights stand on the code, and it is small.
        f"{part}.{name}": tensor.contiguous() if part == "code" else tensor.half().contiguous()
        for part, state in parts(code).items()
        for name, tensor in state.items()
    }
    path = MODELS / "miniature.safetensors"
    MODELS.mkdir(exist_ok=True)
    metadata = {miniature.METADATA_KEY: json.dumps(about(code["token_ids"].tolist()))}
    core("whole_files").save_whole(path, tensors, metadata)
    miniature.load_miniature(path)  # what cannot be loaded must not ship
    log(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
