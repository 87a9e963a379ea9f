"""The drawn world: who exists, who is held out, and that the same seed gives the same picture."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nested_attn_core.training.miniature import dataset, drawing, identities, scenes


@pytest.mark.parametrize("domain", identities.DOMAINS)
def test_the_split_is_complete_and_about_a_tenth(domain):
    seen, held = (identities.identities(domain, side) for side in (False, True))
    combinations = np.prod([len(v) for v in identities.ATTRIBUTES[domain].values()])
    assert len(seen) + len(held) == combinations
    assert not set(seen) & set(held)
    assert 0.07 < len(held) / combinations < 0.13


def test_training_draws_no_held_out_subject():
    jobs = dataset.Plan(identities=60, pictures={"person": 90, "kitten": 90}, pairs=30).jobs()
    assert len(jobs) == 210
    assert not any(subject.held_out for subjects, _ in jobs for subject in subjects)
    assert all(s.held_out for subjects, _ in dataset.Plan(held_out=True).jobs() for s in subjects)


@pytest.mark.parametrize("domain", identities.DOMAINS)
def test_the_same_seed_draws_the_same_picture(domain):
    who, other = identities.identities(domain, held_out=True)[:2]
    first, again = scenes.render((who,), "a"), scenes.render((who,), "a")
    assert first.image.tobytes() == again.image.tobytes()
    assert first.caption == again.caption
    assert first.image.tobytes() != scenes.render((other,), "a").image.tobytes()
    assert first.image.tobytes() != scenes.render((who,), "b").image.tobytes()


def test_captions_say_what_is_drawn():
    pair = tuple(identities.identities(d, held_out=True)[0] for d in identities.DOMAINS)
    for number in range(20):
        picture = scenes.render(pair, f"caption {number}", size=32)
        assert picture.caption.endswith(f", {picture.scene}")
        assert picture.scene in drawing.SCENES
        left, right = picture.caption.split(" and a ", 1)
        assert "person" in left and "kitten" in right


def test_words_are_those_that_the_drawing_uses():
    who = identities.identities("person", held_out=True)[0]
    _, words = drawing.draw_person(who, random.Random(5))
    assert words == drawing.words_of("person", random.Random(5))


def test_a_stopped_data_set_goes_on_and_is_the_same(tmp_path):
    plan = dataset.Plan(identities=4, pictures={"person": 3, "kitten": 3}, pairs=2)
    told = []
    dataset.build(tmp_path / "a", plan, lambda done, total: told.append((done, total)))
    assert told == [(8, 8)]
    images, records = dataset.load(tmp_path / "a")
    assert images.shape == (8, 128, 128, 3) and len(records) == 8
    # A second run finds everything done; a half-written shard does not count.
    (tmp_path / "a" / "000.part.npz").write_bytes(b"half")
    dataset.build(tmp_path / "a", plan, lambda done, total: told.append((done, total)))
    assert len(told) == 1
    dataset.build(tmp_path / "b", plan, lambda done, total: None)
    np.testing.assert_array_equal(images, dataset.load(tmp_path / "b")[0])


def test_a_folder_without_pictures_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="draw them first"):
        dataset.load(tmp_path)
