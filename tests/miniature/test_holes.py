"""Photos with a hole for a subject: what is in them, and what is asked about them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nested_attn_core.evaluation import cases, holes
from nested_attn_core.evaluation.regions import columns
from nested_attn_core.training.miniature import identities
from nested_attn_core.training.miniature.drawing import SCENES


@pytest.fixture(scope="module")
def made():
    pools = {domain: cases.subjects(domain, 4) for domain in identities.DOMAINS}
    return holes.holes(pools, "kitten", 16, seed=3)


def test_sides_scenes_subjects_and_mates_come_in_turn(made):
    assert Counter(hole.number for hole in made) == {0: 8, 1: 8}
    assert set(Counter(hole.case.picture.scene for hole in made).values()) == {2}
    assert {hole.case.picture.scene for hole in made} == set(SCENES)
    assert set(Counter(hole.who for hole in made).values()) == {4}
    mates = Counter(hole.case.who[1 - hole.number].domain for hole in made)
    assert mates == {"person": 8, "robot": 8}
    assert all(who.held_out for hole in made for who in hole.case.who)


def test_the_photo_shows_the_other_one_as_the_real_picture_does_and_nobody_in_the_hole(made):
    for hole in made:
        here, there = columns(hole.number, 2, 128), columns(1 - hole.number, 2, 128)
        assert torch.equal(hole.photo[:, here], hole.scene[:, here])
        assert torch.equal(hole.photo[:, there], hole.real[:, there])
        assert not torch.equal(hole.real[:, here], hole.scene[:, here])
        # What was taken out lies in the hole, all of it but what is above by a hair.
        taken = ((hole.real - hole.photo).abs().amax(-1) > 0.1).float()
        assert float((taken * hole.mask).sum() / taken.sum()) > 0.97
        cells = hole.mask.reshape(16, 8, 16, 8)
        assert torch.equal(cells.amin((1, 3)), cells.amax((1, 3)))  # whole cells of the latent


def test_the_prompt_names_the_subject_where_it_stands(made):
    for hole in made:
        first, second = hole.prompt("<anna>").split(" and a ")
        assert "<anna>" in (first, second)[hole.number]
        assert "<anna>" not in (first, second)[1 - hole.number]
        assert hole.prompt("kitten") == hole.prompt() == hole.case.prompt()
        assert hole.record["subjects"] == [["kitten", *hole.who.values]]
        assert hole.record["words"] == [hole.case.picture.words[hole.number]]
