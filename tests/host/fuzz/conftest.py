"""The bench of the fuzz tests: a small base, folders of its own, and nodes that give any value."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import pytest
import safetensors.torch
import torch

from reliability import record

from ..compatibility.conftest import AnyType, Small
from ..conftest import build, randomise, tiny_vision
from ..sink import sink
from .bench import Bench, source

KINDS = ("IMAGE", "MASK", "NESTED_SUBJECT")


@pytest.fixture(scope="session")
def bench(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One for all fuzz tests, so that whatever a run leaves behind meets the next ones."""
    folder = tmp_path_factory.mktemp("fuzz")
    with torch.inference_mode(False), torch.no_grad():
        world = build("sd15", Small, folder)
    for name, width in (("right", 64), ("wrong", 48)):
        vectors = {"emb_params": torch.ones(2, width)}
        safetensors.torch.save_file(vectors, folder / f"{name}.safetensors")
    world.clip = comfy.sd.CLIP(Small.text, embedding_directory=[str(folder)])
    randomise(world.clip.cond_stage_model, 2)
    made = Bench(world, folder, (Path(folder_paths.get_temp_directory()),))

    class Base:
        RETURN_TYPES = ("MODEL", "CLIP", "CLIP_VISION", "NESTED_ENCODER", "LATENT")
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> Any:
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            return world.model, world.clip, world.vision, world.encoder, latent

    Sink = sink(lambda given: made.results.append(given["value"]), {"value": AnyType("*")})

    class After:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",), "latent": ("LATENT",)}}

        def run(self, image: Any, latent: Any) -> Any:
            return (image,)

    nodes = {"FuzzBase": Base, "FuzzSink": Sink, "FuzzAfter": After}
    nodes |= {f"Fuzz{kind}": source(kind, made) for kind in KINDS}
    folders = {
        "nested_attention": ([str(folder / "encoders")], {".safetensors", ".sft"}),
        "nested_subjects": ([str(folder / "subjects")], {".safetensors"}),
    }
    (folder / "scratch").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder / "scratch"))
        for name, kind in nodes.items():
            patch.setitem(host.NODE_CLASS_MAPPINGS, name, kind)
        for name, places in folders.items():
            Path(places[0][0]).mkdir()
            patch.setitem(folder_paths.folder_names_and_paths, name, places)
        began = time.monotonic()
        yield made
    made.close()
    seconds = round(time.monotonic() - began)
    record("fuzz", cases=made.endings.total(), **made.endings, seconds=seconds)


@pytest.fixture(scope="session")
def other_vision(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An image model that no encoder here was made for."""
    return tiny_vision(tmp_path_factory.mktemp("vision"), seed=77)
