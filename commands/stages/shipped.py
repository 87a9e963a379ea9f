"""Trainings that begin with the weights that ship, where the state of their training is gone."""

from __future__ import annotations

import argparse

import torch
from torch import nn

import pack

from .common import MODELS


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-shipped",
        action="store_true",
        help="begin with the weights in models/; a state that was saved here goes before them",
    )


def parts(*names: str) -> dict[str, dict[str, torch.Tensor]]:
    """Parts of models/miniature.safetensors by name, fp32."""
    found, _ = pack.module("nodes.host.miniature").read()
    return {name: found[name] for name in names}


def code() -> dict[str, torch.Tensor] | None:
    """The latent code and the words of the base that ships, or None where its file lacks them."""
    found, about = pack.module("nodes.host.miniature").read()
    if "code" not in found:
        return None
    return {**found["code"], "token_ids": torch.tensor(about["token_ids"])}


def vision() -> dict[str, torch.Tensor]:
    """The vision tower that ships, fp32, under the names that its training has."""
    return {
        name.removeprefix("vision_model.").removeprefix("embeddings."): tensor
        for name, tensor in parts("vision")["vision"].items()
    }


def ruler() -> dict[str, torch.Tensor]:
    """The ruler that ships, fp32."""
    from safetensors.torch import load_file

    loaded = load_file(str(MODELS / "ruler.safetensors"))
    return {name: t.float() if t.is_floating_point() else t for name, t in loaded.items()}


def copy_into(
    model: nn.Module, found: dict[str, dict[str, torch.Tensor]], prefixed: bool = True
) -> None:
    """Every weight of `model` from the parts, in their place; a table of words that has grown keeps
    its new rows as they are."""
    given = {
        (f"{part}.{name}" if prefixed else name): tensor
        for part, tensors in found.items()
        for name, tensor in tensors.items()
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter[: len(given[name])].copy_(given[name])
