"""Muon for the weights of layers, AdamW for the rest: against both written out by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nested_attn_core.training.muon import Muon, layer_weights

RATE, DECAY = 1e-2, 0.03


class Net(nn.Module):
    """A little of everything that layers can be."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.queries = nn.Parameter(torch.randn(1, 3, 6))
        self.mix = nn.Linear(6, 12)
        self.norm = nn.LayerNorm(12)
        self.fold = nn.Conv2d(3, 5, 3, padding=1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def gradients(model: Net, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(values)


def made(model: Net) -> Muon:
    layers = layer_weights(model)
    others = [p for p in model.parameters() if p.requires_grad and not any(p is w for w in layers)]
    return Muon(layers, others, RATE, weight_decay=DECAY)


def orthogonalised(x: Tensor) -> Tensor:
    """The polar factor, exactly; Muon's iteration gives singular values near 1."""
    u, _, vh = torch.linalg.svd(x.double(), full_matrices=False)
    return (u @ vh).float()


def test_layers_are_those_of_linear_maps_and_convolutions_that_are_trained():
    model = net()
    assert [id(w) for w in layer_weights(model)] == [id(model.mix.weight), id(model.fold.weight)]


def test_a_layer_of_two_names_comes_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert len(layer_weights(model)) == 1


def test_all_else_moves_as_by_adamw():
    model, other = net(), net()
    optimiser = made(model)
    adamw = torch.optim.AdamW(other.parameters(), RATE, (0.9, 0.99), weight_decay=DECAY)
    for step in range(3):
        for each, steps in ((model, optimiser), (other, adamw)):
            gradients(each, step)
            steps.step()
    for name in ("words.weight", "queries", "mix.bias", "norm.weight", "fold.bias"):
        torch.testing.assert_close(model.get_parameter(name), other.get_parameter(name))
    assert torch.equal(model.frozen.weight, net().frozen.weight)


@pytest.mark.parametrize("name", ["mix.weight", "fold.weight"])
def test_a_layer_moves_along_the_polar_factor_by_the_rate(name):
    """At the first step the momentum is a multiple of the gradient."""
    model = net()
    before = model.get_parameter(name).detach().clone()
    gradients(model, 0)
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    factor = orthogonalised(gradient.flatten(1))
    made(model).step()
    moved = (before * (1 - RATE * DECAY) - model.get_parameter(name).detach()).flatten(1)
    along = float((moved * factor).sum() / (moved.norm() * factor.norm()))
    assert along > 0.95
    # The iteration leaves singular values between 0.7 and 1.2.
    assert float(moved.square().mean().sqrt()) == pytest.approx(RATE, rel=0.3)


def test_the_order_in_memory_changes_nothing():
    plain, last = net(), net().to(memory_format=torch.channels_last)
    assert not last.fold.weight.is_contiguous()
    for model in (plain, last):
        optimiser = made(model)
        for step in range(3):
            gradients(model, step)
            optimiser.step()
    # Sums in bf16 come in another order.
    torch.testing.assert_close(plain.fold.weight, last.fold.weight, atol=5e-4, rtol=0)
    assert not torch.allclose(plain.fold.weight, net().fold.weight, atol=5e-3)


def test_a_weight_whose_memory_is_in_neither_order():
    model = net()
    odd = torch.zeros(3, 3, 5, 3).permute(2, 0, 3, 1)  # neither of torch's two layouts
    model.fold.weight = nn.Parameter(odd)
    with pytest.raises(ValueError, match="neither in order nor with its inputs last"):
        made(model)


def test_it_goes_on_from_its_state():
    whole, cut = net(), net()
    optimiser = made(whole)
    for step in range(4):
        gradients(whole, step)
        optimiser.step()
        if step == 1:
            cut.load_state_dict(whole.state_dict())
            state = copy.deepcopy(optimiser.state_dict())
    resumed = made(cut)
    resumed.load_state_dict(state)
    for step in (2, 3):
        gradients(cut, step)
        resumed.step()
    for (name, found), expected in zip(cut.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected), name


def test_the_rate_is_that_of_its_group():
    model = net()
    optimiser = made(model)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    gradients(model, 0)
    optimiser.step()
    for found, expected in zip(model.parameters(), net().parameters(), strict=True):
        assert torch.equal(found, expected)


def test_layers_alone_and_none():
    model = nn.Linear(4, 3, bias=False)
    assert len(Muon([model.weight], [], RATE).inner) == 1
    assert len(Muon([], [model.weight], RATE).inner) == 1
