"""In what precision a training multiplies: what is fast on this device. Weights stay fp32."""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from .common import core, device

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of products; without it bf16 where that is fast"
    )


def chosen(arguments: argparse.Namespace) -> str:
    """What was asked for, else what is fast."""
    return arguments.precision or fast()


def mixed(precision: str) -> torch.autocast:
    """A context, or a decorator, in which products and convolutions are of that precision."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device().type, dtype, enabled=dtype != torch.float32)


def norms_in_fp32(model: nn.Module) -> None:
    """Group norms compute in fp32 from here on: CPUs' gradients of them take five times as long
    in bf16."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def fast() -> str:
    """bf16 where the device is quicker in it; else fp32, since to imitate it is slow."""
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # What a CPU says of itself is not enough: of three with avx512_bf16, two take a half to two
    # thirds of the time that fp32 takes, the other one twice as long.
    return min(PRECISIONS, key=lambda name: convolution_seconds(PRECISIONS[name]))


def convolution_seconds(precision: torch.dtype, tries: int = 5) -> float:
    """The shortest of `tries` on the CPU, at the size of the UNet's inner layers."""
    width = 2 * core("training.miniature.config").UNET["model_channels"]
    picture = torch.zeros(16, width, 16, 16, dtype=precision)
    picture = picture.contiguous(memory_format=torch.channels_last)
    kernel = torch.zeros(width, width, 3, 3, dtype=precision)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(tries + 1):  # the first one also prepares
        started = time.perf_counter()
        torch.nn.functional.conv2d(picture, kernel, padding=1)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
