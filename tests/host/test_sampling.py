"""Batches of pictures for the evaluation, against the shipped nodes and row by row."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from commands.pack import ROOT, module
from stages.common import core

sampling: Any = importlib.import_module("methods.sampling")
SETTINGS = sampling.Settings(steps=3, cfg=3.0)
PROMPTS = ("a <anna> with wide eyes, beach", "a robot and a <anna> with glasses, city, sepia")
WORDS = {"anna": "kitten"}
ONE_STEP = sampling.Settings(steps=1)
# One of each kind of attention.
KINDS = ("nested", "single_token", "appended_tokens", "decoupled", "nested_key_too")


@pytest.fixture(scope="module")
def studio() -> Any:
    return sampling.Studio(*module("nodes.host.miniature").load_miniature())


@pytest.fixture(scope="module")
def loaded() -> Any:
    node = module("nodes.encoder").LoadNestedEncoder
    return node.execute("(shipped) kitten.safetensors").args[0]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two references that look nothing alike."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 128, 128, 3, generator=generator)
    return noise * torch.tensor([[0.2, 0.3, 1.0], [1.0, 0.4, 0.1]])[:, None, None]


def methods(studio: Any, config: Any) -> dict[str, Any]:
    registry = core("evaluation.baselines.registry")
    weights = module("nodes.host.sites").site_projections(studio.model.model.diffusion_model)
    torch.manual_seed(0)
    plan = registry.Plan(config, site_weights=weights)
    return {name: registry.build(name, plan).eval() for name in KINDS}


def nodes_latent(studio: Any, loaded: Any, image: Any, prompt: str, seed: int, strength: float):
    """What the shipped nodes and the host's sampler make of one picture."""
    nodes: Any = importlib.import_module("nodes")
    encode, text = module("nodes.subject").EncodeSubject, nodes.CLIPTextEncode()
    (subject,) = encode.execute(loaded, studio.vision, image, "anna").args
    apply = module("nodes.apply").ApplyNestedAttention
    model, clip = apply.execute(studio.model, studio.clip, subject, strength).args
    empty = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    return nodes.common_ksampler(
        model, seed, SETTINGS.steps, SETTINGS.cfg, SETTINGS.sampler, SETTINGS.scheduler,
        text.encode(clip, prompt)[0], text.encode(studio.clip, "")[0], empty,
    )[0]["samples"]  # fmt: skip


def test_a_batch_gives_what_the_shipped_nodes_give_one_by_one(studio, loaded, images):
    info = loaded.info
    method = core("training.methods").NestedMethod(
        loaded.patcher.model, info.norm, info.token_weight
    )
    texts = studio.read(PROMPTS, WORDS)
    cast = sampling.Cast(method, studio.features(images), texts.positions["anna"], 0.8)
    found = studio.latents(texts, [7, 8], [cast], SETTINGS)
    plain = studio.latents(texts, [7, 8], settings=SETTINGS)
    for row, prompt in enumerate(PROMPTS):
        image = images[row : row + 1]
        expected = nodes_latent(studio, loaded, image, prompt, 7 + row, 0.8)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-4, rtol=1e-4)
        assert (plain[row] - found[row]).abs().max() > 0.05


def test_subjects_kept_apart_are_those_of_the_shipped_nodes(studio, loaded, images):
    nodes: Any = importlib.import_module("nodes")
    subject_nodes = module("nodes.subject")
    info, words = loaded.info, {"anna": "kitten", "rex": "kitten"}
    prompt = "a <anna> with wide eyes and a <rex>, beach"
    method = core("training.methods").NestedMethod(
        loaded.patcher.model, info.norm, info.token_weight
    )
    texts, features = studio.read([prompt], words), studio.features(images)
    casts = [
        sampling.Cast(method, features[number : number + 1], texts.positions[name])
        for number, name in enumerate(words)
    ]
    settings = {"assignment": "soft", "bounded": True}
    separation = core("separation").Separation(**settings)
    found = studio.latents(texts, [7], casts, SETTINGS, separation)
    encoded = [
        subject_nodes.EncodeSubject.execute(loaded, studio.vision, images[n : n + 1], name).args[0]
        for n, name in enumerate(words)
    ]
    both = core("subject").Subjects.of(*encoded)
    apply, apart = module("nodes.apply"), module("nodes.separate").SeparateSubjects
    model, clip = apply.ApplyNestedAttention.execute(studio.model, studio.clip, both, 1.0).args
    text = nodes.CLIPTextEncode()

    def latent(model: Any) -> torch.Tensor:
        return nodes.common_ksampler(
            model, 7, SETTINGS.steps, SETTINGS.cfg, SETTINGS.sampler, SETTINGS.scheduler,
            text.encode(clip, prompt)[0], text.encode(studio.clip, "")[0],
            nodes.EmptyLatentImage().generate(128, 128, 1)[0],
        )[0]["samples"]  # fmt: skip

    expected, without = latent(apart.execute(model, **settings).args[0]), latent(model)
    # Rounding may decide about a place at the border of a region.
    assert (found - expected).abs().mean() < 0.05 * (without - expected).abs().mean()


def test_without_a_cast_it_is_the_host_s_own_picture(studio):
    nodes: Any = importlib.import_module("nodes")
    prompt = PROMPTS[0].replace("<anna>", "kitten")
    text = nodes.CLIPTextEncode()
    empty = nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    latent = nodes.common_ksampler(
        studio.model, 3, SETTINGS.steps, SETTINGS.cfg, SETTINGS.sampler, SETTINGS.scheduler,
        text.encode(studio.clip, prompt)[0], text.encode(studio.clip, "")[0], empty,
    )[0]  # fmt: skip
    expected = nodes.VAEDecode().decode(studio.vae, latent)[0]
    for texts in (studio.read([prompt]), studio.read(PROMPTS[:1], WORDS)):
        found = studio.draw(texts, [3], settings=SETTINGS)
        assert found.shape == (1, 128, 128, 3)
        torch.testing.assert_close(found, expected)


def test_a_row_does_not_depend_on_its_batch_mates(studio, loaded, images):
    texts, features = studio.read(PROMPTS, WORDS), studio.features(images)
    for name, method in methods(studio, loaded.info.config).items():
        cast = sampling.Cast(method, features, texts.positions["anna"])
        both = studio.latents(texts, [7, 8], [cast], ONE_STEP)
        last = slice(1, 2)
        alone = sampling.Cast(method, features[last], cast.positions[last])
        found = studio.latents(texts[last], [8], [alone], ONE_STEP)
        torch.testing.assert_close(
            found, both[last], atol=1e-4, rtol=1e-4, msg=lambda m, n=name: n + m
        )


def test_pictures_without_the_subject_are_the_base_s(studio, loaded, images):
    texts = studio.read(["a robot, forest", PROMPTS[0]], WORDS)
    assert texts.positions["anna"].tolist()[0] == [-1]
    plain = studio.latents(texts, [7, 8], settings=ONE_STEP)
    for name, method in methods(studio, loaded.info.config).items():
        cast = sampling.Cast(method, studio.features(images), texts.positions["anna"])
        found = studio.latents(texts, [7, 8], [cast], ONE_STEP)
        torch.testing.assert_close(found[0], plain[0], atol=1e-4, rtol=1e-4, msg=name)
        assert (found[1] - plain[1]).abs().max() > 1e-3, name


def test_several_subjects_share_a_picture(studio, loaded, images):
    """Two casts at once give what the nodes give for two subjects in one prompt."""
    nodes: Any = importlib.import_module("nodes")
    prompt = "a <anna> and a <rex>, city"
    texts = studio.read([prompt], {"anna": "kitten", "rex": "kitten"})
    method = core("training.methods").NestedMethod(
        loaded.patcher.model, loaded.info.norm, loaded.info.token_weight
    )
    features = studio.features(images)
    casts = [
        sampling.Cast(method, features[row : row + 1], texts.positions[name])
        for row, name in enumerate(("anna", "rex"))
    ]
    found = studio.latents(texts, [4], casts, SETTINGS)
    encode, combine = module("nodes.subject").EncodeSubject, module("nodes.subject").CombineSubjects
    subjects = [
        encode.execute(loaded, studio.vision, images[row : row + 1], name).args[0]
        for row, name in enumerate(("anna", "rex"))
    ]
    (both,) = combine.execute(subject_1=subjects[0], subject_2=subjects[1]).args
    apply = module("nodes.apply").ApplyNestedAttention
    model, clip = apply.execute(studio.model, studio.clip, both, 1.0).args
    text, empty = nodes.CLIPTextEncode(), nodes.EmptyLatentImage().generate(128, 128, 1)[0]
    expected = nodes.common_ksampler(
        model, 4, SETTINGS.steps, SETTINGS.cfg, SETTINGS.sampler, SETTINGS.scheduler,
        text.encode(clip, prompt)[0], text.encode(studio.clip, "")[0], empty,
    )[0]["samples"]  # fmt: skip
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_model_that_comes_in_stays_as_it_is(studio, loaded, images):
    before = dict(studio.model.model_options["transformer_options"])
    method = methods(studio, loaded.info.config)["decoupled"]
    texts = studio.read(PROMPTS, WORDS)
    cast = sampling.Cast(method, studio.features(images), texts.positions["anna"])
    studio.latents(texts, [1, 2], [cast], ONE_STEP)
    assert studio.model.model_options["transformer_options"] == before
    assert "model_function_wrapper" not in studio.model.model_options


def test_names_stand_where_the_class_word_stands(studio):
    texts = studio.read(["a <anna> and a <rex>, city", "a <rex>, beach"],
                        {"anna": "person", "rex": "kitten"})  # fmt: skip
    plain = studio.read(["a person and a kitten, city", "a kitten, beach"])
    assert torch.equal(texts.context, plain.context)
    assert texts.positions["anna"].tolist() == [[2], [-1]]
    assert texts.positions["rex"].tolist() == [[5], [2]]
    assert texts[1:].positions["rex"].tolist() == [[2]]


def test_an_unknown_name_is_a_sentence(studio):
    with pytest.raises(core("errors").NestedAttentionError, match="<rex>"):
        studio.read(["a <rex>, beach"], WORDS)


def test_the_shipped_encoders_are_methods_as_they_are():
    found = importlib.import_module("methods.trained").shipped("kitten")
    info = core("checkpoint").read_info(ROOT / "models" / "kitten.safetensors")
    assert (found.name, found.class_word) == ("nested", "kitten")
    assert found.method.norm == info.norm and found.method.token_weight == info.token_weight
