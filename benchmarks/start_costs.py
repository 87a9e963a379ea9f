"""What comes before and after sampling: importing, loading, encoding, applying; and what stays.

On the miniature with a shipped encoder, through the host's own node classes' code.
"""

from __future__ import annotations

import gc
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pack

IMPORT = """
import importlib, sys, time
sys.path[:0] = [{commands!r}]
import pack
pack.start_host(True)
for name in ("comfy.sd", "comfy.samplers", "comfy.clip_vision", "comfy_api.latest", "folder_paths"):
    importlib.import_module(name)
first = time.process_time()
module = pack.load_pack()
import asyncio
extension = asyncio.run(module.comfy_entrypoint())
asyncio.run(extension.get_node_list())
print(time.process_time() - first)
"""


def measure(runs: int) -> dict[str, Any]:
    """Seconds of each thing, and what has grown after so many sampling runs."""
    loaded = pack.module("nodes.host.miniature").load_miniature()
    memory = pack.module("nodes.host.memory")
    path = Path(pack.ROOT, "models", "person.safetensors")
    encoder = memory.load(path, "person")
    import torch

    patches = torch.randn(1, encoder.info.config.feature_dim, generator=_seeded(0))
    features = patches[:, None].expand(-1, 65, -1)
    subject = encoder.subject("anna", features)
    binding = pack.module("nodes.host.binding")
    text = pack.module("nodes.host.text")
    subjects = pack.module("nested_attn_core.subject").Subjects((subject,))
    return {
        "import_seconds": _imported(3),
        "load_seconds": _median(lambda: memory.load(path, "person")),
        "load_bytes": path.stat().st_size,
        "encode_seconds": _median(lambda: encoder.subject("anna", features)),
        "apply_seconds": _median(
            lambda: (
                binding.bind_model(loaded.model, subjects),
                text.bind_clip(loaded.clip, subjects),
            )
        ),
        "flatness": flatness(loaded, subjects, runs),
    }


def flatness(loaded: Any, subjects: Any, runs: int) -> dict[str, int]:
    """How much more lives after `runs` sampling runs than after a fifth of them."""
    binding, text = pack.module("nodes.host.binding"), pack.module("nodes.host.text")
    clip = text.bind_clip(loaded.clip, subjects)
    encode = clip.encode_from_tokens_scheduled
    positive = encode(clip.tokenize("a <anna> smiling, beach"))
    negative = encode(clip.tokenize(""))
    channels = loaded.model.model.latent_format.latent_channels
    first = (0, 0, 0)
    for number in range(runs):
        # As when a slider of Apply is moved: a new patched clone for each run.
        bound = binding.bind_model(loaded.model, subjects)
        sample(bound, positive, negative, (16, 16), 1, channels=channels)
        if number + 1 == max(runs // 5, 1):
            # Asking a tensor for its storage makes an object that lives as long as the tensor
            # does: the first count of all makes them, the second is the one to compare with.
            _held()
            first = _held()
    last = _held()
    names = "tensor_bytes", "objects", "file_handles"
    grown = {name: now - then for name, now, then in zip(names, last, first, strict=True)}
    return {"runs": runs, **grown}


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    size: tuple[int, int],
    steps: int,
    callback: Callable[..., None] | None = None,
    channels: int = 4,
) -> Any:
    """A latent by the host's sampler, with guidance."""
    import torch

    latent = torch.zeros(1, channels, *size)
    sampling = importlib.import_module("comfy.sample")
    return sampling.sample(
        model, sampling.prepare_noise(latent, 1), steps, 4.0, "euler", "normal", positive, negative,
        latent, disable_pbar=True, seed=1, callback=callback,
    )  # fmt: skip


def _held() -> tuple[int, int, int]:
    """Bytes of all tensors, number of tracked objects, open file handles."""
    import torch

    gc.collect()
    objects = gc.get_objects()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in objects
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    }
    handles = Path("/proc/self/fd")
    return (
        sum(storages.values()),
        len(objects),
        len(list(handles.iterdir())) if handles.is_dir() else 0,
    )


def _imported(times: int) -> float:
    """Processor seconds of importing the pack into a started host and listing its nodes."""
    script = IMPORT.format(commands=str(pack.ROOT / "commands"))
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        found.append(float(done.stdout.strip().splitlines()[-1]))
    return statistics.median(found)


def _median(call: Callable[[], Any], times: int = 7) -> float:
    found = []
    for _ in range(times + 1):
        first = time.process_time()
        call()
        found.append(time.process_time() - first)
    return statistics.median(found[1:])


def _seeded(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)
