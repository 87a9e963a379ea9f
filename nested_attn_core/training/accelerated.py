"""The processes of a training through Hugging Face Accelerate: DDP, FSDP, mixed precision."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import NestedAttentionError
from .workers import Workers

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def leave(code: int) -> NoReturn:
    """Ends one of several processes at once, with that exit status.

    DDP keeps its group, whose threads now and then abort an interpreter that shuts down: a training
    that is saved and done would be told as failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class AcceleratedWorkers(Workers):
    """As many processes as `accelerate launch` (or torchrun) started, or this one alone."""

    def __init__(self, precision: str = "fp32", cpu: bool = False):
        try:
            import accelerate
        except ImportError as error:
            raise NestedAttentionError(
                "Training needs the package accelerate, which is not installed; install it with: "
                "pip install accelerate."
            ) from error
        self._accelerator: Any = accelerate.Accelerator(
            mixed_precision=_PRECISIONS[precision], cpu=cpu
        )
        super().__init__(self._accelerator.device)
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes
        self._sharded = self._accelerator.distributed_type.value == "FSDP"
        self.reshapes = self._sharded

    def prepare_model(self, step: nn.Module) -> Any:
        return self._accelerator.prepare_model(step)

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        return self._accelerator.prepare_optimizer(optimiser)

    def unwrap(self, step: Any) -> Any:
        return self._accelerator.unwrap_model(step, keep_torch_compile=False)

    def gathering(self, step: Any, last: bool) -> Any:
        return contextlib.nullcontext() if last else self._accelerator.no_sync(step)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float, step: Any) -> None:
        self._accelerator.clip_grad_norm_(list(parameters), norm)

    def mean(self, value: Tensor) -> Tensor:
        return value if self.count == 1 else self._accelerator.reduce(value, "mean")

    def any(self, value: bool) -> bool:
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        return bool(self._accelerator.reduce(flag, "sum") > 0)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        # A process that ends with its group open may abort in the group's threads.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.wait()
            torch.distributed.destroy_process_group()

    def whole(self, tensor: Tensor) -> Tensor:
        gather = getattr(tensor, "full_tensor", None)
        return super().whole(tensor if gather is None else gather())

    def fill(self, target: Tensor, source: Tensor) -> None:
        if hasattr(target, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            sharded: Any = target
            source = distribute_tensor(
                source.to(self.device, target.dtype), sharded.device_mesh, sharded.placements
            )
        super().fill(target, source)

    def optimiser_state(self, step: Any, optimiser: Any) -> dict[str, Any]:
        if not self._sharded:
            return optimiser.state_dict()
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(step, optimiser.optimizer, options=options)

    def load_optimiser(self, step: Any, optimiser: Any, state: dict[str, Any]) -> None:
        if not self._sharded:
            optimiser.load_state_dict(state)
            return
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(step, optimiser.optimizer, state, options=options)
