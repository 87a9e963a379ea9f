"""The measures, on cases small enough to do by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nested_attn_core.evaluation.measures import (
    bootstrap_interval,
    bootstrap_ratio_interval,
    normalised_identity,
    pairwise_distance,
    retrieved,
)
from nested_attn_core.evaluation.ruler import Ruler


def unit(rows) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


GALLERY = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_retrieval_finds_the_nearest():
    generated = unit([[0.9, 0.1, 0], [0.1, 0, 0.9], [0.6, 0.4, 0]])
    assert retrieved(generated, GALLERY, torch.tensor([0, 2, 1])).tolist() == [True, True, False]


def test_identity_is_one_for_a_second_real_picture_and_zero_for_another_subject():
    second = unit([[1, 0.2, 0.2], [0.2, 1, 0.2], [0.2, 0.2, 1]])
    right = torch.arange(3)
    same = normalised_identity(second, GALLERY, second, right)
    torch.testing.assert_close(same, torch.ones(3, dtype=torch.float64))
    other = normalised_identity(second.roll(1, 0), GALLERY, second, right)
    torch.testing.assert_close(other, torch.zeros(3, dtype=torch.float64))


def test_intervals_hold_the_mean_and_are_seeded():
    values = (torch.arange(200) % 4 == 0).double()
    low, high = bootstrap_interval(values, seed=1)
    assert low < 0.25 < high and high - low < 0.2
    assert [low, high] == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(torch.ones(9), seed=1) == [1.0, 1.0]
    low, high = bootstrap_ratio_interval(values, torch.ones(200), seed=1)
    assert low < 0.25 < high


def test_the_ruler_reads_one_answer_a_head():
    torch.manual_seed(0)
    ruler = Ruler({"person.hair": 4, "person.skin": 3, "kitten.coat": 5, "scene": 6}).eval()
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    assert {n: tuple(v.shape) for n, v in ruler(images).items()} == {
        "person.hair": (2, 4),
        "person.skin": (2, 3),
        "kitten.coat": (2, 5),
        "scene": (2, 6),
    }
    embedded = ruler.embed(images, "person")
    assert embedded.shape == (2, 7)
    assert embedded.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_an_attribute_that_cannot_be_read_is_left_out_of_the_embedding():
    heads = {"kitten.coat": 5, "kitten.body": 10}
    accuracy = {"kitten.coat": 0.9, "kitten.body": 0.12}
    images = torch.rand(1, 3, 128, 128)
    assert Ruler(heads, accuracy).eval().embed(images, "kitten").shape == (1, 5)
    assert Ruler(heads, {**accuracy, "kitten.body": 0.2}).eval().embed(images, "kitten").shape == (
        1,
        15,
    )


def test_pictures_of_one_subject_are_resampled_together():
    """Against the mean of subjects' means, resampled; all subjects have as many pictures."""
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(40, generator=generator)
    subjects = torch.arange(40).repeat(5)
    values = level.repeat(5) + 0.01 * torch.randn(200, generator=generator)
    low, high = bootstrap_interval(values, 3, subjects)
    means = torch.stack([values[subjects == who].mean() for who in range(40)])
    by_means = bootstrap_interval(means, 3)
    assert [low, high] == pytest.approx(by_means, abs=1e-3)
    alone = bootstrap_interval(values, 3)
    assert high - low > 1.8 * (alone[1] - alone[0])


def test_a_ratio_of_subjects_is_of_sums():
    """Two subjects: the draws can only be both of one, both of the other, or one of each."""
    above, below = torch.tensor([1.0, 1.0, 4.0]), torch.tensor([2.0, 2.0, 4.0])
    interval = bootstrap_ratio_interval(above, below, 1, torch.tensor([7, 7, 9]))
    assert interval == [0.5, 1.0]


def test_pairwise_distance_is_the_mean_over_all_pairs():
    pictures = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    expected = [
        float(((pictures[a] - pictures[b]) ** 2).mean() ** 0.5)
        for a in range(4)
        for b in range(a + 1, 4)
    ]
    assert float(pairwise_distance(pictures)) == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert float(pairwise_distance(pictures[:1].expand(3, -1, -1, -1))) == 0
