"""The drawn world: who exists, who is held out, and that the same seed gives the same picture."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nested_attn_core.training.miniature import attributes, dataset, drawing, identities, scenes
from nested_attn_core.training.miniature.styles import STYLES, apply_style


@pytest.mark.parametrize("domain", identities.DOMAINS)
def test_the_split_is_complete_and_about_a_tenth(domain):
    seen, held = (identities.identities(domain, side) for side in (False, True))
    combinations = np.prod([len(v) for v in identities.ATTRIBUTES[domain].values()])
    if domain == "kitten":  # a marking in the coat's own colour would not show
        combinations -= combinations * 7 // (12 * 7)
    assert len(seen) + len(held) == combinations
    assert not set(seen) & set(held)
    assert len(seen) >= 500 and len(held) >= 100
    assert 0.07 < len(held) / combinations < 0.13


def test_training_draws_no_held_out_subject():
    jobs = dataset.Plan(identities=60, pictures=90, pairs=30).jobs()
    assert len(jobs) == 300
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
    pair = tuple(identities.identities(d, held_out=True)[0] for d in ("person", "robot"))
    for number in range(20):
        picture = scenes.render(pair, f"caption {number}", size=32)
        who, where, *style = picture.caption.split(", ")
        assert where == picture.scene and where in drawing.SCENES
        assert style == ([picture.style] if picture.style else [])
        left, right = who.split(" and a ", 1)
        assert "person" in left and "robot" in right
        assert picture.place == ""


def test_a_given_place_style_and_scene_are_kept_and_named():
    who = identities.identities("robot", held_out=True)[0]
    picture = scenes.render((who,), "x", 64, scene="city", style="sepia photo", place="far away")
    assert picture.caption.endswith(" far away, city, sepia photo")
    plain = scenes.render((who,), "x", 64, scene="city", style="", place="far away")
    assert plain.caption == picture.caption.removesuffix(", sepia photo")
    assert plain.image.tobytes() != picture.image.tobytes()


@pytest.mark.parametrize("style", STYLES)
def test_styles_keep_the_size_and_change_the_picture(style):
    image = scenes.render((identities.identities("kitten", False)[0],), "x", style="").image
    styled = apply_style(style, image)
    assert styled.size == image.size and styled.mode == "RGB"
    assert (styled.tobytes() == image.tobytes()) == (style == "")
    if style in ("pencil sketch",):
        assert np.ptp(np.asarray(styled).astype(int), axis=2).max() == 0


def test_a_key_survives_values_that_are_added_or_left_out(monkeypatch):
    who = identities.Identity("person", (3, 2, 1, 1))
    key, held_out = who.key, who.held_out
    shorter = {k: v for k, v in identities.HAIR_STYLES.items() if k != "bob"}
    monkeypatch.setitem(identities.TABLES["person"], "style", shorter)
    monkeypatch.setitem(identities.ATTRIBUTES["person"], "style", tuple(shorter))
    same = identities.Identity("person", (2, 2, 1, 1))
    assert (same.key, same.held_out) == (key, held_out)


def test_labels_leave_out_what_a_picture_does_not_show():
    def record(domains, style="", place=""):
        pool = [identities.identities(d, False)[0] for d in domains]
        picture = scenes.render(pool, "labels", 32, style=style, place=place)
        return {
            "subjects": [[w.domain, *w.values] for w in pool],
            "words": picture.words,
            "scene": picture.scene,
            "style": picture.style,
            "place": picture.place,
        }

    rows = [
        record(["person"]),
        record(["person"], style="pencil sketch"),
        record(["person"], place="far away"),
        record(["robot", "person"]),
    ]
    found = attributes.labels(rows)
    assert (found["person.hair"] >= 0).tolist() == [True, False, True, True]
    assert (found["person:mouth"] >= 0).tolist() == [True, True, False, True]
    assert (found["person:shirt"] >= 0).tolist() == [True, False, True, True]
    assert (found["place"] >= 0).tolist() == [True, True, True, False]
    assert (found["left"] >= 0).tolist() == [False, False, False, True]
    assert found["left"][3] == identities.DOMAINS.index("robot")
    assert attributes.COMPANIES[found["who"][3]] == ("person", "robot")
    assert (found["kitten.coat"] < 0).all()


def test_words_are_those_that_the_drawing_uses():
    for domain, draw in drawing.DRAW.items():
        _, words = draw(identities.identities(domain, held_out=True)[0], random.Random(5))
        assert words == drawing.words_of(domain, random.Random(5))


def test_a_stopped_data_set_goes_on_and_is_the_same(tmp_path):
    plan = dataset.Plan(identities=4, pictures=3, pairs=2)
    told = []
    dataset.build(tmp_path / "a", plan, lambda done, total: told.append((done, total)))
    assert told == [(11, 11)]
    images, records = dataset.load(tmp_path / "a")
    assert images.shape == (11, 128, 128, 3) and len(records) == 11
    # A second run finds everything done; a half-written shard does not count.
    (tmp_path / "a" / "000.part.npz").write_bytes(b"half")
    dataset.build(tmp_path / "a", plan, lambda done, total: told.append((done, total)))
    assert len(told) == 1
    dataset.build(tmp_path / "b", plan, lambda done, total: None)
    np.testing.assert_array_equal(images, dataset.load(tmp_path / "b")[0])


def test_a_folder_without_pictures_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="draw them first"):
        dataset.load(tmp_path)
