"""What captions may say: only what a picture can show, and, where asked for, who it is."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nested_attn_core.evaluation.cases import Case
from nested_attn_core.training.miniature import drawing, identities, scenes

PERSONS = identities.identities("person", False)


def person_with(beard: str) -> identities.Identity:
    return next(who for who in PERSONS if who["beard"] == beard)


def with_mouth(mouth: str):
    return lambda domain, rng: {**drawing.words_of(domain, rng), "mouth": mouth}


@pytest.mark.parametrize("beard", ["", "moustache", "bearded"])
def test_a_mouth_is_named_where_it_shows(beard):
    who = person_with(beard)
    drawn = [drawing.draw_person(who, random.Random(5), with_mouth(m)) for m in drawing.MOUTHS]
    pictures = {np.asarray(image).tobytes() for image, _ in drawn}
    named = {words.get("mouth") for _, words in drawn}
    if beard == "bearded":
        assert len(pictures) == 1 and named == {None}
    else:
        assert len(pictures) == 3 and named == set(drawing.MOUTHS)


def test_other_domains_keep_all_their_words():
    for domain in ("kitten", "robot"):
        words = drawing.words_of(domain, random.Random(1))
        assert drawing.shown(identities.identities(domain, False)[0], words) == words


def test_a_told_caption_names_each_identity_and_nothing_else_differs():
    pools = {domain: identities.identities(domain, False) for domain in identities.DOMAINS}
    same = 0
    for lot in range(40):
        rng = random.Random(lot)
        who = [rng.choice(pools[d]) for d in rng.sample(identities.DOMAINS, 1 + lot % 2)]
        picture = scenes.render(who, f"told {lot}")
        told = scenes.told(Case(tuple(who), picture).record)
        shorter = told
        for one in who:
            assert scenes.describe(one) in told
            shorter = shorter.replace(f"{scenes.describe(one)} ", "", 1)
        plain = [scenes.phrase(one.domain, w) for one, w in zip(who, picture.words, strict=True)]
        assert shorter == scenes.caption(plain, picture.scene, picture.style, picture.place)
        same += told == picture.caption
    assert 5 < same < 30
