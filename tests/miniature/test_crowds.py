"""Several subjects in one picture: the prompts, each one's part of the picture, and what leaks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from nested_attn_core.evaluation import cases, crowds, regions
from nested_attn_core.training.miniature import attributes, identities
from nested_attn_core.training.miniature.scenes import render
from nested_attn_core.training.miniature.styles import COLOURLESS


@pytest.fixture(scope="module")
def pools():
    return {domain: cases.subjects(domain, 4) for domain in identities.DOMAINS}


@pytest.mark.parametrize("size", [2, 3])
def test_every_kind_comes_as_often_and_the_subjects_differ(pools, size):
    kinds = crowds.kinds(size)
    made = crowds.crowds(pools, size, 2 * len(kinds), seed=3)
    found = Counter(tuple(who.domain for who in crowd.who) for crowd in made)
    assert set(found) == set(kinds) and set(found.values()) == {2}
    assert len(kinds) == (9 if size == 2 else 6)
    for crowd in made:
        assert len(set(crowd.who)) == size and all(who.held_out for who in crowd.who)
        assert crowd.style not in COLOURLESS
    assert [crowd.prompt() for crowd in made] == [
        crowd.prompt() for crowd in crowds.crowds(pools, size, 2 * len(kinds), seed=3)
    ]


def test_a_prompt_reads_as_the_captions_of_the_training(pools):
    crowd = crowds.crowds(pools, 2, 1, seed=0)[0]
    named = crowd.prompt(["<anna>", "<rex>"])
    first, second = (who.domain for who in crowd.who)
    assert crowd.prompt() == named.replace("<anna>", first).replace("<rex>", second)
    assert named.startswith("a <anna>") and " and a <rex>" in named
    alone = crowd.alone(1)
    assert alone.prompt().startswith(f"a {second}") and alone.scene == crowd.scene
    assert crowd.record(1)["subjects"] == [[second, *crowd.who[1].values]]


@pytest.mark.parametrize(("of", "width"), [(2, 128), (3, 128), (3, 7)])
def test_parts_are_the_whole_picture_cut_up(of, width):
    picture, scene = torch.rand(4, width, 3), torch.zeros(4, width, 3)
    parts = [regions.alone(picture, scene, number, of) for number in range(of)]
    assert torch.equal(torch.stack(parts).sum(0), picture)
    assert all(bool((part == 0).any()) for part in parts)


def test_a_part_of_a_real_pair_is_that_subject_in_its_scene(pools):
    who = pools["person"][0], pools["robot"][0]
    drawn = render(who, "pair", scene="city", style="")
    picture = torch.from_numpy(np.asarray(drawn.image).copy()).float() / 255
    scene = regions.clean_scene("city", "", 128)
    left = regions.alone(picture, scene, 0, 2)
    assert torch.equal(left[:, 64:], scene[:, 64:]) and torch.equal(left[:, :64], picture[:, :64])
    # What is there beside the subjects is the scene itself.
    assert float((picture - scene).abs().amax(-1).eq(0).float().mean()) > 0.2


def answers(domains: list[str], colours: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """What a classifier would say of one part: the domain it sees, and colours by domain."""
    found = {"who": torch.tensor([attributes.company(domains)])}
    for domain, colour in colours:
        name = regions.MAIN_COLOUR[domain]
        values = identities.ATTRIBUTES[domain][name]
        found[f"{domain}.{name}"] = torch.tensor([values.index(colour)])
    return found


def with_colour(domain: str, colour: str, skip: int = 0) -> identities.Identity:
    every = identities.identities(domain, held_out=True)
    return [who for who in every if who[regions.MAIN_COLOUR[domain]] == colour][skip]


def test_what_leaks_between_domains():
    pair = with_colour("kitten", "blue"), with_colour("robot", "red")
    own = answers(["kitten"], [("kitten", "blue")])
    assert not regions.leaked(own, 0, pair, 0, (0, 0))
    assert regions.leaked(answers(["kitten"], [("kitten", "red")]), 0, pair, 0, (0, 0))
    assert not regions.leaked(answers(["kitten"], [("kitten", "green")]), 0, pair, 0, (0, 0))
    assert regions.leaked(answers(["robot"], [("kitten", "blue")]), 0, pair, 0, (0, 0))
    # Two of one colour: the colour says nothing.
    alike = with_colour("kitten", "red"), with_colour("robot", "red")
    assert not regions.leaked(answers(["kitten"], [("kitten", "red")]), 0, alike, 0, (0, 0))


def test_what_leaks_within_a_domain_is_told_by_the_nearer_reference():
    pair = with_colour("person", "red"), with_colour("person", "blue")
    seen = answers(["person"], [("person", "green")])
    assert regions.leaked(seen, 0, pair, 0, (0.4, 0.5))
    assert not regions.leaked(seen, 0, pair, 1, (0.4, 0.5))
