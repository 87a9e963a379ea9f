"""The masks that tell where a drawn subject is."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nested_attn_core.training.miniature import drawing, identities, scenes
from nested_attn_core.training.miniature.masks import (
    crown_mask,
    faces_mask,
    margin_mask,
    subject_mask,
    subjects_mask,
)


def drawn(domains, **options):
    pool = [identities.identities(domain, False)[1] for domain in domains]
    picture = scenes.render(pool, "mask", **options)
    record = {
        "scene": picture.scene,
        "style": picture.style,
        "subjects": [[who.domain, *who.values] for who in pool],
    }
    return np.asarray(picture.image), record


@pytest.mark.parametrize("style", ["", "pixel art", "sepia photo"])
def test_a_subject_on_the_left_is_found_on_the_left(style):
    mask = subject_mask(*drawn(["robot"], place="on the left", style=style), "robot").float()
    assert mask[:, :8].mean() > 3 * mask[:, 10:].mean()
    assert 0.1 < mask.mean() < 0.6


def test_two_subjects_have_disjoint_masks():
    image, record = drawn(["kitten", "person"], style="")
    left, right = (subject_mask(image, record, domain) for domain in ("kitten", "person"))
    assert left[:, :8].any() and not left[:, 8:].any()
    assert right[:, 8:].any() and not right[:, :8].any()
    assert ((left | right) & ~subjects_mask(image, record)).sum() == 0


def test_an_empty_scene_has_no_subject():
    image = np.asarray(scenes.apply_style("", scenes.draw_scene("beach", 128).convert("RGB")))
    record = {"scene": "beach", "style": "", "subjects": [["kitten"]]}
    assert not subject_mask(image, record, "kitten").any()


def test_an_absent_domain_is_refused():
    image, record = drawn(["kitten"], style="")
    with pytest.raises(ValueError):
        subject_mask(image, record, "robot")


@pytest.mark.parametrize("domain", ["person", "robot"])
def test_a_face_is_a_small_part_of_its_subject(domain):
    who = identities.identities(domain, False)[1]
    found = []
    for lot in range(20):
        picture = scenes.render([who], f"face {lot}")
        image = np.asarray(picture.image)
        subjects = [[domain, *who.values]]
        record = {"scene": picture.scene, "style": picture.style, "subjects": subjects}
        subject = subjects_mask(image, record)
        face = faces_mask(image, [who], f"face {lot}")
        found.append((float(face.sum()), float((face & ~subject).sum()), float(subject.sum())))
    face, outside, subject = np.array(found).T
    assert (face > 0).mean() > 0.8
    assert outside.sum() < 0.1 * face.sum()
    assert face.sum() < 0.4 * subject.sum()


def test_another_face_takes_the_same_lots():
    unchanged = []
    for domain in ("person", "kitten", "robot"):
        first, second = random.Random(3), random.Random(3)
        words, other = drawing.words_of(domain, first), drawing.other_face(domain, second)
        assert first.random() == second.random()
        unchanged.append({name for name in words if words[name] == other[name]})
    assert unchanged == [{"shirt"}, {"wear"}, set()]


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=40))
def test_a_margin_is_what_is_near_a_subject(cells):
    subject = torch.zeros(16, 16, dtype=torch.bool)
    near = torch.zeros(16, 16, dtype=torch.bool)
    for row, column in cells:
        subject[row, column] = True
        near[max(0, row - 2) : row + 2, max(0, column - 1) : column + 2] = True
    assert margin_mask(subject).equal(near)
    rows = near.any(1).nonzero()[:, 0].tolist()
    upper = [bool(rows) and row < (rows[0] + rows[-1] + 1) // 2 for row in range(16)]
    assert crown_mask(subject).equal(near & torch.tensor(upper)[:, None])


@pytest.mark.parametrize(
    ("domain", "attribute"), [("person", 0), ("person", 3), ("robot", 2), ("robot", 3)]
)
def test_a_margin_holds_what_another_shape_would_change(domain, attribute):
    changed, near = 0, 0
    for lot, who in enumerate(identities.identities(domain, False)[:12]):
        values = list(who.values)
        values[attribute] = (values[attribute] + 1) % 3
        other = identities.Identity(domain, tuple(values))
        first, second = (
            scenes.render([one], f"shape {lot}", scene="beach", style="", place="")
            for one in (who, other)
        )
        image = np.asarray(first.image)
        record = {"scene": "beach", "style": "", "subjects": [[domain, *who.values]]}
        subject = subjects_mask(image, record)
        difference = image.astype(np.int16) - np.asarray(second.image)
        differs = torch.from_numpy(np.abs(difference).max(-1) > 10).float()
        cells = torch.nn.functional.avg_pool2d(differs[None], 8)[0] > 0.1
        changed += int(cells.sum())
        near += int((cells & margin_mask(subject)).sum())
    assert near >= 0.95 * changed > 0
