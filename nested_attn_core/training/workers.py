"""The processes of a training. This one runs alone; accelerated.py has those of Accelerate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Workers:
    """One process on one device."""

    rank = 0
    count = 1
    reshapes = False
    """Whether parameters are other objects after prepare_model (sharding)."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def prepare_model(self, step: nn.Module) -> Any:
        """The step on its device, wrapped for several processes where there are."""
        return step.to(self.device)

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        return optimiser

    def unwrap(self, step: Any) -> Any:
        """The step that prepare_model took."""
        return step

    def gathering(self, step: Any, last: bool) -> Any:
        """Context of one part of a batch; gradients are exchanged with the last part only."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: Sequence[nn.Parameter], norm: float, step: Any) -> None:
        """Limits the norm of all gradients together."""
        nn.utils.clip_grad_norm_(parameters, norm)

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes."""
        return value

    def any(self, value: bool) -> bool:
        """Whether it holds in some process."""
        return value

    def wait(self) -> None:
        """Until all processes are here."""

    def close(self) -> None:
        """Leaves the other processes, when all is done."""

    def whole(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU of a tensor that may be spread over processes."""
        return tensor.detach().cpu().clone()

    def fill(self, target: Tensor, source: Tensor) -> None:
        """Writes a whole tensor into one that may be spread over processes."""
        target.copy_(source)

    def optimiser_state(self, step: Any, optimiser: Any) -> dict[str, Any]:
        """The optimiser's state, whole."""
        return optimiser.state_dict()

    def load_optimiser(self, step: Any, optimiser: Any, state: dict[str, Any]) -> None:
        optimiser.load_state_dict(state)
