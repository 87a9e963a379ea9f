"""Several subjects with settings, image counts and encoders of their own, in real runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import World, counted, differs, pack, write_encoder

CLASSES = ("person", "dog", "cat", "robot")
NAMES = ("anna", "rex", "mia", "bolt")


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 40, 48, 3, generator=torch.Generator().manual_seed(seed))


def settled(host: Any, subject: Any, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "coarse": 1.0, "middle": 1.0,
        "fine": 1.0, "token_weight": 1.0,
    }  # fmt: skip
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionSubjectSettings"]
    return node.execute(subject, **{**defaults, **settings}).result[0]


def combined(host: Any, *subjects: Any) -> Any:
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionCombineSubjects"]
    return node.execute(**{f"subject_{i + 1}": one for i, one in enumerate(subjects)}).result[0]


def encoded(host: Any, world: World, encoder: Any, pictures: Any, name: str, **more: Any) -> Any:
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionEncodeSubject"]
    return node.execute(encoder, world.vision, pictures, name, **more).result[0]


def draw(world: World, subjects: Any, text: str, **options: Any) -> torch.Tensor:
    model, clip = world.apply(subjects)
    return world.sample(
        world.encode(text, clip), world.encode("", clip), model, **{"steps": 1, **options}
    )


@pytest.fixture
def other_encoder(sd15: World, tmp_path: Path) -> Any:
    path = tmp_path / "dog.safetensors"
    write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15", seed=7)
    return pack("nodes.host.memory").load(path, path.name)


def test_two_to_four_subjects_of_two_encoders_and_unequal_counts(
    sd15: World, host: Any, other_encoder: Any
) -> None:
    """Each subject is in the image: without its name the image is another one."""
    encoders = [sd15.encoder, other_encoder, sd15.encoder, other_encoder]
    subjects = [
        encoded(host, sd15, encoder, images(count, count), name)
        for encoder, name, count in zip(encoders, NAMES, (1, 3, 2, 4), strict=True)
    ]
    assert [len(one.tokens) for one in subjects] == [6, 18, 12, 24]
    for count in (2, 3, 4):
        some = combined(host, *subjects[:count])
        names = [f"a <{name}>" for name in NAMES[:count]]
        every = draw(sd15, some, " and ".join(names))
        for left_out in range(count):
            words = list(names)
            words[left_out] = "a person"
            assert differs(draw(sd15, some, " and ".join(words)), every)


def test_more_images_of_other_sizes_join_one_subject(
    sd15: World, host: Any, other_encoder: Any
) -> None:
    large = torch.rand(1, 90, 70, 3, generator=torch.Generator().manual_seed(3))
    first = encoded(host, sd15, sd15.encoder, large, "x")
    joined = encoded(host, sd15, sd15.encoder, images(2, 1), "anna", join=first)
    assert joined.name == "anna" and len(joined.tokens) == 18
    assert torch.equal(joined.tokens[:6], first.tokens)
    with pytest.raises(ValueError, match="by different encoders"):
        encoded(host, sd15, other_encoder, images(2, 1), "anna", join=first)
    # The same images in one batch are the same subject.
    batch = encoded(host, sd15, sd15.encoder, images(3, 5), "anna")
    parts = encoded(host, sd15, sd15.encoder, images(3, 5)[:2], "x")
    again = encoded(host, sd15, sd15.encoder, images(3, 5)[2:], "anna", join=parts)
    assert torch.allclose(again.tokens, batch.tokens, atol=1e-5)


def test_the_settings_node_as_it_comes_changes_nothing(sd15: World, host: Any) -> None:
    both = combined(host, sd15.subject(), sd15.subject("rex", 5, "dog"))
    assert settled(host, both).fingerprint == both.fingerprint
    subject = sd15.subject()
    text = "a <anna>"
    assert torch.equal(draw(sd15, settled(host, subject), text), draw(sd15, subject, text))


def test_settings_of_one_subject_leave_the_other(sd15: World, host: Any) -> None:
    anna, rex = sd15.subject(), sd15.subject("rex", 5, "dog")
    text = "a <anna> and a <rex>"
    without_rex = draw(sd15, anna, "a <anna> and a dog")
    whole = draw(sd15, combined(host, anna, rex), text)
    assert differs(whole, without_rex)
    off: list[dict[str, Any]] = [
        {"strength": 0.0},
        {"coarse": 0.0, "middle": 0.0, "fine": 0.0},
        {"mask": torch.zeros(1, 8, 8)},
        {"start_percent": 1.0},
    ]
    for settings in off:
        some = combined(host, anna, settled(host, rex, **settings))
        assert torch.equal(draw(sd15, some, text), without_rex), settings
    on: list[dict[str, Any]] = [
        {"strength": 0.5}, {"coarse": 0.0}, {"fine": 0.5}, {"middle": 2.0},
        {"mask": torch.eye(8)[None]}, {"token_weight": 4.0},
    ]  # fmt: skip
    pictures = [draw(sd15, combined(host, anna, settled(host, rex, **one)), text) for one in on]
    pictures += [whole, without_rex]
    assert all(differs(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_settings_of_the_subject_and_of_apply_add_up(sd15: World, host: Any) -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    set_twice = settled(host, sd15.subject(), strength=0.5, mask=mask, end_percent=0.5)
    model, clip = sd15.apply(set_twice, strength=0.5, mask=mask.mT, start_percent=0.25)
    (found,) = pack("nodes.host.text").known_subjects(clip)
    assert found.strength == 0.25 and (found.start_percent, found.end_percent) == (0.25, 0.5)
    assert torch.equal(found.mask, mask * mask.mT)


def test_groups_follow_the_resolution_of_real_sites(worlds: Callable[[str], World]) -> None:
    sites = pack("nodes.host.sites")

    def groups(family: str) -> dict[str, list[str]]:
        unet = worlds(family).model.model.diffusion_model
        found: dict[str, list[str]] = {}
        for site, group in sites.site_groups(unet).items():
            found.setdefault(group, []).append(site.rsplit(".", 1)[0])
        return {group: list(dict.fromkeys(blocks)) for group, blocks in found.items()}

    def blocks(name: str, *numbers: int) -> list[str]:
        return [f"{name}.{number}" for number in numbers]

    assert groups("sd15") == {
        "fine": blocks("input", 1, 2) + blocks("output", 9, 10, 11),
        "middle": blocks("input", 4, 5, 7, 8) + blocks("output", 3, 4, 5, 6, 7, 8),
        "coarse": ["middle.0"],
    }
    assert groups("sdxl") == {
        "fine": blocks("input", 4, 5) + blocks("output", 3, 4, 5),
        "coarse": blocks("input", 7, 8) + ["middle.0"] + blocks("output", 0, 1, 2),
    }


@pytest.mark.parametrize("group", ["coarse", "middle", "fine"])
def test_a_weight_of_0_leaves_the_sites_of_its_group_alone(
    sd15: World, host: Any, group: str
) -> None:
    """At the sites: a group that is off has no subject there, the others have it as before."""
    strengths: dict[str, float] = {}
    model, clip = sd15.apply(settled(host, sd15.subject(), **{group: 0.0}), strength=0.5)

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        plan = args[5].get(pack("nodes.host.patch").PLAN)
        for name in groups:
            ((item,)) = plan.at(name, (1, 1))
            strengths[name] = item.strength
        return executor(*args, **kwargs)

    groups = pack("nodes.host.sites").site_groups(model.model.diffusion_model)
    model.add_wrapper_with_key("apply_model", "look", look)
    sd15.sample(sd15.encode("a <anna>", clip), sd15.encode("", clip), model, steps=1)
    assert strengths == {name: 0.0 if of == group else 0.5 for name, of in groups.items()}


def test_four_subjects_run_as_one_batch(sd15: World, host: Any) -> None:
    subjects = [
        sd15.subject(name, seed, word)
        for seed, (name, word) in enumerate(zip(NAMES, CLASSES, strict=True))
    ]
    model, clip = sd15.apply(combined(host, *subjects))
    model, calls = counted(model)
    text = " and ".join(f"a <{name}>" for name in NAMES)
    sd15.sample(sd15.encode(text, clip), sd15.encode("", clip), model, steps=1)
    assert calls == [2]
