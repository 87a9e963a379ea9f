"""Training steps of a full-size SD1.5 or SDXL with an encoder: seconds and peak memory.

The base is built by the host's own classes with random weights, so that no file is needed, and the
step is the trainer's own: python benchmarks/full_size_step.py sd15 --edge 256
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "commands")]

from training_flops import FEATURES  # noqa: E402

import pack  # noqa: E402
from full_size_models import BASES, UNET, fill  # noqa: E402

DTYPES = ("bf16", "fp16", "fp32")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("base", choices=BASES)
    made.add_argument("--edge", type=int, default=256, help="edge of the pictures in pixels")
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--steps", type=int, default=2, help="the first one is not timed")
    made.add_argument("--tokens", type=int, help="nested tokens (default: the preset's)")
    made.add_argument("--precision", choices=DTYPES, default="bf16")
    made.add_argument("--no-checkpointing", action="store_true")
    made.add_argument("--no-average", action="store_true", help="without EMA")
    made.add_argument("--optimiser", choices=("adamw", "adamw8bit"), default="adamw")
    made.add_argument("--cpu", action="store_true")
    made.add_argument("--json", type=Path, help="add the figures to this file, a line of JSON")
    return made


def base_model(family: str, precision: str) -> Any:
    """The host's MODEL of full size, with weights that keep signals alive."""
    supported = importlib.import_module("comfy.supported_models")
    management = importlib.import_module("comfy.model_management")
    patchers = importlib.import_module("comfy.model_patcher")
    dtype = pack.module("nodes.host.learning").DTYPES[precision]
    sizes = {**UNET, **BASES[family]}
    config = {"sd15": supported.SD15, "sdxl": supported.SDXL}[family](sizes)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device="cpu")
    fill(model.diffusion_model)
    return patchers.ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


class RandomExamples:
    """Pictures of noise, in the shapes of the family."""

    def __init__(self, family: str, edge: int):
        import torch

        self.family, self.side = family, edge // 8
        self.generator = torch.Generator().manual_seed(1)

    def batch(self, numbers: Any) -> Any:
        import torch

        def noise(*shape: int) -> Any:
            return torch.randn(len(numbers), *shape, generator=self.generator)

        width, adm = BASES[self.family]["context_dim"], BASES[self.family]["adm_in_channels"]
        return pack.module("nested_attn_core.training.batches").Batch(
            latents=noise(4, self.side, self.side),
            context=noise(77, width),
            positions=torch.full((len(numbers), 1), 5),
            features=noise(*FEATURES),
            conditions={} if adm is None else {"y": noise(adm)},
        )


def trainer(arguments: argparse.Namespace, seconds: list[float]) -> Any:
    """The trainer of the preset's encoder on a random base."""
    import torch

    config = pack.module("nested_attn_core.training.config_file").load_config(
        ROOT / "configs" / f"{arguments.base}.toml",
        [
            f"run.precision={arguments.precision}",
            f"run.checkpointing={str(not arguments.no_checkpointing).lower()}",
            f"run.ema={0.0 if arguments.no_average else 0.999}",
            f"optimiser.name={arguments.optimiser}",
            *([f"encoder.tokens={arguments.tokens}"] if arguments.tokens else []),
        ],
    )
    learning = pack.module("nodes.host.learning")
    frozen = pack.module("nodes.host.frozen")
    core = "nested_attn_core.training"
    module = pack.module(f"{core}.trainer")
    workers = pack.module(f"{core}.accelerated").AcceleratedWorkers(
        arguments.precision, arguments.cpu
    )
    models = frozen.FrozenModels(
        base_model(arguments.base, arguments.precision), None, None, None, "thing", arguments.base
    )
    step = learning.Learning(config, models).step(FEATURES[1])
    last = time.monotonic()

    def on_step(progress: Any) -> None:
        nonlocal last
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        seconds.append(now - last)
        last = now
        print(f"step {progress.step}: {seconds[-1]:.1f} s, loss {progress.last_loss:.4f}")

    settings = module.RunSettings(
        steps=arguments.steps, batch=arguments.batch, ema=config.run.ema, threads=0
    )
    optimiser = learning.Learning(config, models).optimiser_settings
    listeners = module.Listeners(on_step=on_step)
    examples = RandomExamples(arguments.base, arguments.edge)
    return module.Trainer(step, examples, settings, optimiser, workers, listeners)


def peak_memory(cuda: bool) -> float:
    """In bytes: of the GPU, else of this process."""
    import torch

    if cuda:
        return float(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def main() -> int:
    arguments = parser().parse_args()
    pack.start_host(arguments.cpu or None)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    from stages.common import threads

    torch.set_num_threads(threads())
    cuda = torch.cuda.is_available() and not arguments.cpu
    seconds: list[float] = []
    trainer(arguments, seconds).run()
    timed = seconds[1:] or seconds
    each = sum(timed) / len(timed)
    found = {
        "base": arguments.base,
        "edge": arguments.edge,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "checkpointing": not arguments.no_checkpointing,
        "device": torch.cuda.get_device_name()
        if cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "seconds a step": round(each, 3),
        "images a second": round(arguments.batch / each, 4),
        "peak memory, GB": round(peak_memory(cuda) / 1e9, 2),
    }
    print(json.dumps(found, indent=1))
    if arguments.json:
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
