"""Latent code, vocabulary, and what an encoder is shown."""

from __future__ import annotations

import pytest
import torch

from nested_attn_core.training.miniature.latents import PatchCode
from nested_attn_core.training.miniature.vocabulary import END, START, UNKNOWN, Vocabulary


def test_the_patch_code_is_a_projection():
    torch.manual_seed(0)
    images = torch.rand(12, 3, 32, 32) * 2 - 1
    code = PatchCode.fit(images, channels=16, patch=8)
    latents = code.encode(images)
    assert latents.shape == (12, 16, 4, 4)
    torch.testing.assert_close(code.basis.T @ code.basis, torch.eye(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(code.encode(code.decode(latents)), latents, atol=1e-3, rtol=1e-3)
    whole = PatchCode.fit(images, channels=192, patch=8)
    torch.testing.assert_close(whole.decode(whole.encode(images)), images, atol=2e-3, rtol=0)


def test_unknown_words_share_a_row():
    texts = {"a kitten": [START, 7, 9, END], "a robot": [START, 7, 11, END]}
    vocabulary = Vocabulary.of(["a kitten"], texts.__getitem__)
    assert len(vocabulary) == 5
    rows = vocabulary.encode(texts, texts.__getitem__)
    assert rows.tolist() == [[1, 3, 4, 2], [1, 3, UNKNOWN, 2]]


def test_known_words_keep_their_rows():
    texts = {"a kitten": [START, 7, 9, END], "a robot": [START, 5, 11, END]}
    first = Vocabulary.of(["a kitten"], texts.__getitem__)
    more = Vocabulary.of(texts, texts.__getitem__, first.token_ids)
    assert more.token_ids == (START, END, 7, 9, 5, 11)


def test_the_rate_rises_and_falls():
    from nested_attn_core.training.loop import Schedule

    schedule = Schedule(steps=100, rate=1.0, warmup=10, decay_share=0.5)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:50] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5) and rates[99] == pytest.approx(0.02)
