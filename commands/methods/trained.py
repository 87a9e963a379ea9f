"""Trained methods in files: what `dev.py train compare` writes and the evaluation reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stages.common import MODELS, STATE, core

FOLDER = STATE / "compare"
FILE = "method.safetensors"
METADATA_KEY = "nested_attention_method"


@dataclass(frozen=True)
class Trained:
    """A method with trained weights, in evaluation mode; `about` says how it was trained."""

    name: str
    class_word: str
    method: Any
    about: Mapping[str, Any] = field(default_factory=dict)


def save(path: Path, name: str, plan: Any, state: Mapping[str, Tensor], about: Mapping) -> None:
    """Writes weights as fp16, whole or not at all; `plan` is the registry's, `about` plain JSON."""
    content = {
        "name": name,
        "config": plan.config.to_dict(),
        "norm": asdict(plan.norm),
        "token_weight": plan.token_weight,
        "about": dict(about),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: tensor.detach().half().contiguous() for key, tensor in state.items()}
    core("whole_files").save_whole(path, halves, {METADATA_KEY: json.dumps(content)})


def load(path: Path) -> Trained:
    """The method of a file; raises FileNotFoundError where there is none."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; train it: dev.py train compare --domain {path.parents[1].name} "
            f"--methods {path.parent.name}."
        )
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()[METADATA_KEY])
    registry = core("evaluation.baselines.registry")
    plan = registry.Plan(
        core("encoder").EncoderConfig.from_dict(content["config"]),
        core("attention").NormControl(**content["norm"]),
        content["token_weight"],
    )
    method = registry.build(content["name"], plan)
    method.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    about = content["about"]
    return Trained(content["name"], about["class_word"], _ready(method), about)


def shipped(domain: str) -> Trained:
    """The encoder in models/, which may have been trained for longer than the comparison's."""
    return of_encoder(MODELS / f"{domain}.safetensors")


def of_encoder(path: Path) -> Trained:
    """Nested attention by the encoder of a file, with its own settings."""
    encoder, info = core("checkpoint").load_encoder(path, dtype=torch.float32)
    method = core("training.methods").NestedMethod(encoder, info.norm, info.token_weight)
    about = {"steps": info.steps, "class_word": info.class_word, "domain": info.domain}
    return Trained("nested", info.class_word, _ready(method), about)


def path_of(domain: str, name: str, folder: Path = FOLDER) -> Path:
    return folder / domain / name / FILE


def every(domain: str, folder: Path = FOLDER) -> dict[str, Trained]:
    """What `dev.py train compare` has trained for a domain, in the registry's order."""
    names = core("evaluation.baselines.registry").NAMES
    paths = {name: path_of(domain, name, folder) for name in names}
    return {name: load(path) for name, path in paths.items() if path.exists()}


def _ready(method: Any) -> Any:
    return method.eval().requires_grad_(False)
