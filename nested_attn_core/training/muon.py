"""Muon for the weights of layers, AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adamw import adamw

# torch's steps are a fifth of AdamW's nominal ones. Of 1, 5 and 10 times that, 5 had the lowest
# loss after 250 steps of the miniature's base.
TIMES = 5.0


def layer_weights(module: nn.Module) -> list[Tensor]:
    """What Muon is for: trained weights of linear layers and convolutions, each once. Embeddings,
    norms, biases and learned queries are not."""
    layers = (each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d))
    return list(dict.fromkeys(each.weight for each in layers if each.weight.requires_grad))


def as_matrix(x: Tensor, inputs_last: bool) -> Tensor:
    """(out, in, ...) to (out, rest): a view where that is the order in memory."""
    return (x.movedim(1, -1) if inputs_last else x).flatten(1)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon for `layers` (a kernel (out, in, h, w) is the matrix (out, in * h * w)),
    torch.optim.AdamW for `others`. An entry of a matrix moves by `lr` in the root mean square, so
    that one rate serves both (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982,
    section 2.2). Weights have to stay where they are in memory."""

    def __init__(
        self,
        layers: Sequence[Tensor],
        others: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__([*layers, *others], {"lr": lr})
        self.layers = list(layers)
        self.inputs_last = [not weight.is_contiguous() for weight in layers]
        matrices = [
            nn.Parameter(as_matrix(weight.detach(), last))
            for weight, last in zip(layers, self.inputs_last, strict=True)
        ]
        if any(m.data_ptr() != w.data_ptr() for m, w in zip(matrices, layers, strict=True)):
            raise ValueError("A weight lies in memory neither in order nor with its inputs last.")
        self.matrices = matrices
        # Neither takes an empty list.
        self.inner: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            options: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"}
            muon = torch.optim.Muon(matrices, lr, weight_decay=weight_decay / TIMES, **options)
            self.inner.append((muon, TIMES))
        if others:
            self.inner.append((adamw(others, lr=lr, betas=betas, weight_decay=weight_decay), 1.0))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for weight, matrix, last in zip(self.layers, self.matrices, self.inputs_last, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad, last)
        for optimiser, times in self.inner:
            for group in optimiser.param_groups:
                group["lr"] = self.param_groups[0]["lr"] * times
            optimiser.step()
        for matrix in self.matrices:
            matrix.grad = None  # a copy of the weight's, where that lies otherwise in memory

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [optimiser.state_dict() for optimiser, _ in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for (optimiser, _), state in zip(self.inner, state_dict["inner"], strict=True):
            optimiser.load_state_dict(state)
