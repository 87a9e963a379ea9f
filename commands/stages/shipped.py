"""Trainings that begin with the weights that ship, or with others that `dev.py train export` has
collected, where the state of their training is gone or on another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import pack

from .common import MODELS

FILE = "miniature.safetensors"


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-shipped",
        nargs="?",
        const=MODELS,
        type=Path,
        metavar="FOLDER",
        help="begin with the weights in models/, or in FOLDER; a state that was saved here goes "
        "before them",
    )


def parts(*names: str, folder: Path = MODELS) -> dict[str, dict[str, torch.Tensor]]:
    """Parts of the folder's miniature.safetensors by name, fp32."""
    found, _ = pack.module("nodes.host.miniature").read(folder / FILE)
    return {name: found[name] for name in names}


def code(folder: Path = MODELS) -> dict[str, torch.Tensor] | None:
    """The latent code and the words of a base, or None where its file lacks them."""
    found, about = pack.module("nodes.host.miniature").read(folder / FILE)
    if "code" not in found:
        return None
    return {**found["code"], "token_ids": torch.tensor(about["token_ids"])}


def vision(folder: Path = MODELS) -> dict[str, torch.Tensor]:
    """A vision tower, fp32, under the names that its training has."""
    return {
        name.removeprefix("vision_model.").removeprefix("embeddings."): tensor
        for name, tensor in parts("vision", folder=folder)["vision"].items()
    }


def ruler(folder: Path = MODELS) -> dict[str, torch.Tensor]:
    """A ruler, fp32."""
    from safetensors.torch import load_file

    loaded = load_file(str(folder / "ruler.safetensors"))
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
