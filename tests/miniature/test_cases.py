"""The prompts of the evaluation: held out, asked fairly, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nested_attn_core.evaluation import answers, cases
from nested_attn_core.training.miniature import attributes, drawing, identities, scenes
from nested_attn_core.training.miniature.styles import STYLES


@pytest.fixture(scope="module")
def robots() -> list[cases.Case]:
    pool = cases.subjects("robot", 3)
    return cases.single_cases("robot", pool, 7, seed=1, held_out_prompts=True)


def test_subjects_and_prompts_are_held_out(robots):
    for case in robots:
        (who,) = case.who
        picture = case.picture
        where = picture.scene, picture.style, picture.place
        assert who.held_out
        assert cases.prompt_held_out("robot", picture.words[0], *where)


def test_a_tenth_of_the_prompts_of_each_domain_is_held_out():
    for domain in identities.DOMAINS:
        kinds = [("", p) for p in scenes.PLACES] + [(s, "") for s in STYLES if s]
        looks = drawing.LOOKS[domain]
        first = {name: tuple(values)[0] for name, values in looks.items()}
        name = max(looks, key=lambda look: len(looks[look]))
        found = [
            cases.prompt_held_out(domain, {**first, name: word}, scene, style, place)
            for word in looks[name]
            for scene in drawing.SCENES
            for style, place in kinds
        ]
        assert 0.05 < np.mean(found) < 0.16


def test_every_kind_of_prompt_has_its_turn(robots):
    kinds = [(case.picture.style, case.picture.place) for case in robots]
    assert kinds[:3] == list(cases.KINDS[:3])
    # With the subjects' next round the kinds move on, so that no subject has always the same one.
    assert kinds[3] == cases.KINDS[4]
    styled, placed = {s for s, _ in cases.KINDS}, {p for _, p in cases.KINDS}
    assert (styled, placed) == (set(STYLES), set(scenes.PLACES))


def test_the_prompt_is_the_real_pictures_caption(robots):
    for case in robots:
        assert case.picture.caption in (case.prompt(), case.told)
        assert case.prompt(["<anna>"]) == case.prompt().replace("a robot", "a <anna>", 1)
    assert cases.single_cases("robot", cases.subjects("robot", 3), 7, 1, True) == robots
    other = cases.single_cases("robot", cases.subjects("robot", 3), 7, 2, True)
    assert [case.prompt() for case in other] != [case.prompt() for case in robots]


def test_pairs_have_every_order_of_two_domains():
    pools = {domain: cases.subjects(domain, 4) for domain in identities.DOMAINS}
    found = cases.pair_cases(pools, 8, seed=0)
    orders = [tuple(who.domain for who in case.who) for case in found]
    assert len(set(orders[:6])) == 6
    assert all(who.held_out for case in found for who in case.who)
    assert {case.picture.style for case in found[:6]} == {""}
    assert all(case.picture.style for case in found[6:])
    words = found[0].prompt()
    assert words.index(orders[0][0]) < words.index(orders[0][1])


def test_references_are_plain_and_two_sets_differ():
    first, second = (cases.references("kitten", 2, which) for which in ("reference", "second"))
    assert {(p.style, p.place) for p in first + second} == {("", "")}
    assert np.asarray(first[0].image).tobytes() != np.asarray(second[0].image).tobytes()


def test_more_subjects_than_are_held_out_is_an_error():
    with pytest.raises(ValueError, match="ask for fewer"):
        cases.subjects("kitten", 10_000)


def test_only_what_captions_name_is_asked_for(robots):
    labels = attributes.labels([case.record for case in robots])
    asked = answers.named(labels)
    assert set(asked) == set(attributes.prompt_heads())
    for row, case in enumerate(robots):
        caption = case.prompt()
        for head, where in asked.items():
            if bool(where[row]):
                word = attributes.prompt_heads()[head][int(labels[head][row])]
                assert word and word in caption
        assert bool(asked["scene"][row])
        assert bool(asked["style"][row]) == bool(case.picture.style)
        assert bool(asked["place"][row]) == bool(case.picture.place)
        assert not asked["person:shirt"][row]


def test_right_answers_are_counted_over_the_heads_that_are_asked():
    labels = {"a": torch.tensor([1, 2, -1]), "b": torch.tensor([0, 0, 3])}
    guesses = {"a": torch.tensor([1, 0, -1]), "b": torch.tensor([0, 0, 3])}
    asked = {"a": labels["a"] >= 0, "b": torch.tensor([True, False, True])}
    right, of = answers.right(guesses, labels, asked)
    assert right.tolist() == [2, 0, 1] and of.tolist() == [2, 1, 1]
    assert answers.accuracy(guesses, labels, "a", asked["a"]) == pytest.approx(0.5)
    assert answers.accuracy(guesses, labels, "a", torch.zeros(3, dtype=torch.bool)) is None
