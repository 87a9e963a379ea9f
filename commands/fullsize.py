"""Samples a base of full size with a subject, through the host, with random weights.

Every part has the size of a real one: the UNet, its text encoders, a ViT-H, and an encoder with
1024 nested tokens. Prints, and with --json writes, which sites were visited, what the host counts
as loaded, seconds and peak memory, without and with the subject. Ends with 1 where something is
wrong.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack
from full_size_models import DTYPES, SITES, RandomModels

PROMPT = "a photo of a {}, smiling, on a beach"
NEGATIVE = "blurry, low quality"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py fullsize", description=__doc__)
    made.add_argument("--family", choices=sorted(SITES), default="sdxl")
    made.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="the base's weights")
    made.add_argument("--edge", type=int, default=256, help="edge of the image in pixels")
    made.add_argument("--steps", type=int, default=2)
    made.add_argument("--cfg", type=float, default=4.0, help="1 leaves out the negative prompt")
    made.add_argument("--tokens", type=int, default=1024, help="nested tokens of the encoder")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--thin", action="store_true", help="the same layout, thin: in seconds")
    made.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    made.add_argument("--json", type=Path, help="write the figures there, too")
    return made


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, seconds of this process's processors, and peak memory in bytes."""

    seconds: float
    processor: float
    peak: int

    def to_dict(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 3),
            "processor seconds": round(self.processor, 3),
            "peak memory, MB": _mb(self.peak),
        }


class Meter:
    """What one thing after another costs.

    Memory is that of the GPU where there is one, else of this process. Where the system cannot set
    the peak back, it is that since the start.
    """

    def __init__(self, device: Any):
        self._cuda = device.type == "cuda"

    def run(self, work: Callable[[], Any]) -> tuple[Any, Cost]:
        """What ``work`` gives, and what it cost."""
        gc.collect()
        self._reset()
        begin, busy = time.monotonic(), time.process_time()
        result = work()
        return result, Cost(time.monotonic() - begin, time.process_time() - busy, self._peak())

    def _reset(self) -> None:
        if self._cuda:
            importlib.import_module("torch").cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        if self._cuda:
            return importlib.import_module("torch").cuda.max_memory_allocated()
        if sys.platform == "linux":
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
        if sys.platform == "win32":
            return importlib.import_module("psutil").Process().memory_info().peak_wset
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Watch:
    """Looks into a run from inside its model calls."""

    def __init__(self) -> None:
        self.visited: set[str] = set()
        self.loaded: dict[str, int] = {}
        self.keys_values = 0
        self.calls: list[int] = []

    def on(self, model: Any) -> Any:
        """A clone of the MODEL that is watched."""
        kinds = importlib.import_module("comfy.patcher_extension").WrappersMP
        watched = model.clone()
        watched.add_wrapper_with_key(kinds.DIFFUSION_MODEL, "fullsize", self)
        return watched

    def __call__(self, executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(len(x))
        out = executor(x, *args, **kwargs)
        run = _options(args, kwargs).get(pack.module("nodes.host.run").RUN)
        if run is not None:
            self.visited = set(run.visited)
            made = [pair for key in run.subjects for pair in run.keys_values(key).values()]
            self.keys_values = sum(t.numel() * t.element_size() for pair in made for t in pair)
        management = importlib.import_module("comfy.model_management")
        self.loaded = {
            type(loaded.model.model).__name__: loaded.model.loaded_size()
            for loaded in management.current_loaded_models
        }
        return out


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The transformer options of a call of the diffusion model."""
    return next((a for a in args if isinstance(a, dict)), kwargs.get("transformer_options", {}))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, with "problems": what was not as it must be."""
    import torch

    host: Any = importlib.import_module("nodes")
    management = importlib.import_module("comfy.model_management")
    device = management.get_torch_device()
    meter, models = Meter(device), RandomModels(arguments.family, arguments.dtype, arguments.thin)
    base, clip = models.base(), models.text()

    def sample(model: Any, text_encoder: Any, text: str) -> Any:
        edge = arguments.edge // 8
        conditions = [
            host.CLIPTextEncode().encode(text_encoder, words)[0] for words in (text, NEGATIVE)
        ]
        latent = {"samples": torch.zeros(1, 4, edge, edge)}
        settings = (1, arguments.steps, arguments.cfg, "euler", "normal")
        return meter.run(
            lambda: host.KSampler().sample(model, *settings, *conditions, latent)[0]["samples"]
        )

    say("sampling without a subject")
    plain_watch = Watch()
    plain, without = sample(plain_watch.on(base), clip, PROMPT.format("person"))
    say("encoding a subject")
    subject, costs = encode(models, meter, base, arguments.tokens)
    apply = pack.module("nodes.apply").ApplyNestedAttention.execute
    say("sampling with the subject")
    watch = Watch()
    model, named = apply(base, clip, subject, 1.0).result
    image, with_subject = sample(watch.on(model), named, PROMPT.format("<anna>"))
    say("sampling with the subject at strength 0")
    model, named = apply(base, clip, subject, 0.0).result
    off, _ = sample(model, named, PROMPT.format("<anna>"))

    wanted = SITES[arguments.family]
    encoder_bytes = watch.loaded.get("NestedEncoder", 0)
    change = float((image - plain).abs().max() / plain.std())
    checks = {
        f"{len(watch.visited)} of {wanted} sites visited": len(watch.visited) == wanted,
        "the host does not count the encoder as loaded": encoder_bytes > 0,
        "the image is not finite": bool(torch.isfinite(image).all()),
        "the subject changes nothing": change > 1e-3,
        "strength 0 differs from no node": torch.equal(off, plain),
        "the subject costs model calls": watch.calls == plain_watch.calls,
    }
    return {
        "family": arguments.family + (", thin" if arguments.thin else ""),
        "weights": arguments.dtype,
        "computed in": str(base.model.manual_cast_dtype or base.model.get_dtype()).split(".")[-1],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "edge, px": arguments.edge,
        "steps": arguments.steps,
        "cfg": arguments.cfg,
        "nested tokens": arguments.tokens,
        "sites visited": len(watch.visited),
        "sites": wanted,
        "rows of each model call": watch.calls,
        "loaded by the host, MB": {name: _mb(size) for name, size in watch.loaded.items()},
        "nested keys and values, MB": _mb(watch.keys_values),
        "sampling without": without.to_dict(),
        "sampling with": with_subject.to_dict(),
        **costs,
        "added by the subject, MB": _mb(with_subject.peak - without.peak),
        "largest change by the subject, in standard deviations": round(change, 3),
        "problems": [problem for problem, fine in checks.items() if not fine],
    }


def encode(
    models: RandomModels, meter: Meter, base: Any, tokens: int
) -> tuple[Any, dict[str, Any]]:
    """A subject by the nodes, from an encoder's file and a random picture; costs by part."""
    import torch

    vision = models.vision()
    picture = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(2))
    load = pack.module("nodes.host.memory").load
    execute = pack.module("nodes.subject").EncodeSubject.execute
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "random.safetensors"
        models.write_encoder(path, base, vision, tokens)
        gc.collect()
        # The preview of the node is a file.
        importlib.import_module("folder_paths").set_temp_directory(folder)
        encoder, loading = meter.run(lambda: load(path, path.name))
        node, encoding = meter.run(lambda: execute(encoder, vision, picture, "anna"))
    costs = {"loading the encoder": loading.to_dict(), "encoding a subject": encoding.to_dict()}
    return node.result[0], costs


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _mb(size: float) -> float:
    return round(size / 1e6, 1)


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main(words: list[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    pack.start_host(arguments.cpu or None)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        found = measure(arguments)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
