"""What the stages share: where things lie, the host's tokenizer, and progress lines."""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pack

STATE = pack.ROOT / ".local" / "train"
MODELS = pack.ROOT / "models"


def core(name: str) -> ModuleType:
    """A module of the pack's core."""
    return pack.module(f"nested_attn_core.{name}")


def host(name: str) -> ModuleType:
    """A module of the host; starts the host's code on first use."""
    pack.start_host()
    return importlib.import_module(name)


@functools.cache
def tokenizer() -> Callable[[str], list[int]]:
    """The host's SD1 tokenizer: caption -> 77 token ids; captions fit one chunk."""
    clip = host("comfy.sd1_clip").SD1Tokenizer()

    def tokenize(caption: str) -> list[int]:
        return [entry[0] for entry in clip.tokenize_with_weights(caption)["l"][0]]

    return tokenize


def log(line: str) -> None:
    # In one piece, line end included: lanes that run side by side share the output.
    print(f"{time.strftime('%H:%M:%S')} {line}\n", end="", flush=True)


@functools.cache
def device() -> Any:
    """Where a training runs: the GPU where torch sees one that the host would use, else the CPU."""
    pack.start_host()
    return importlib.import_module("comfy.model_management").get_torch_device()


def threads() -> int:
    """Threads of one training process: NESTED_THREADS, else every core."""
    return int(os.environ.get("NESTED_THREADS") or os.cpu_count() or 1)
