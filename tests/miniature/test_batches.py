"""The base's batches: which caption a draw has, and how noisy it is."""

from __future__ import annotations

import pytest
import torch

from nested_attn_core.training.miniature.base import Base, Batches

PLAIN, TOLD, EMPTY = 5, 9, 1


class Watcher(Base):
    """Predicts nothing, and keeps what it was asked."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), torch.nn.Identity())
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.tokens: list[torch.Tensor] = []
        self.sigmas: list[torch.Tensor] = []

    def forward(self, latents, sigma, tokens):
        self.tokens.append(tokens)
        self.sigmas.append(sigma)
        return latents * 0 + self.weight


def asked(telling: float) -> Watcher:
    rows = torch.ones(4, 77, dtype=torch.int64)
    batches = Batches(
        torch.zeros(4, 2, 3, 3),
        PLAIN * rows,
        TOLD * rows,
        EMPTY * rows[0],
        torch.ones(4, 3, 3),
        torch.ones(4),
        telling,
        size=4,
    )
    watcher = Watcher()
    for step in range(40):
        loss = batches.loss(watcher, torch.Generator().manual_seed(step))
        assert torch.isfinite(loss)
    return watcher


@pytest.mark.parametrize("telling, expected", [(0.0, 0.0), (0.8, 0.72), (1.0, 0.9)])
def test_a_share_of_the_draws_is_told_who_it_is(telling, expected):
    tokens = torch.cat(asked(telling).tokens)
    told = (tokens == TOLD).float().mean(1)
    assert float((told > 0.5).float().mean()) == pytest.approx(expected, abs=0.04)
    # No caption is a mixture: beside its own rows there are words put out, and nothing else.
    assert not ((tokens == TOLD).any(1) & (tokens == PLAIN).any(1)).any()


def test_sigma_leans_to_the_noisy_side():
    sigma = torch.cat(asked(0.0).sigmas)
    assert sigma.min() > 0 and sigma.max() < 1
    assert 0.55 < float(sigma.median()) < 0.7
