"""The trained placeholder: an embedding for each text stream in place of the class word's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import differs, pack
from .test_session import place, session  # noqa: F401 (a fixture)
from .test_training import (
    CAPTIONS,
    core,
    denoiser_of,
    frozen_models,
    losses_of,
    random_batch,
    training_step,
)

pytestmark = pytest.mark.usefixtures("gradients")


def own_of(world):
    """The class word's embedding by stream."""
    return frozen_models(world).class_embedding()


def with_placeholder(world, placeholder):
    return replace(world.subject("anna"), placeholder=placeholder)


def encoded(world, subject, prompt):
    _, clip = world.apply(subject)
    ((context, extra),) = world.encode(prompt, clip)
    return context, extra


@pytest.mark.parametrize("prompt", ["a photo of <anna> on a beach", "(<anna>:1.3), <anna>"])
def test_the_class_words_own_embedding_changes_no_bit(world, prompt):
    streams = {"sd15": ["l"], "sdxl": ["g", "l"]}[world.family]
    own = own_of(world)
    assert sorted(own) == streams
    plain, about = encoded(world, world.subject("anna"), prompt)
    same, also = encoded(world, with_placeholder(world, own), prompt)
    assert torch.equal(plain, same)
    slots = "nested_attention_slots"
    assert torch.equal(about["model_conds"][slots].cond, also["model_conds"][slots].cond)
    if about.get("pooled_output") is not None:
        assert torch.equal(about["pooled_output"], also["pooled_output"])


def test_another_embedding_changes_its_token_and_what_follows(world):
    other = {stream: vector.flip(0) for stream, vector in own_of(world).items()}
    prompt = "a photo of <anna> on a beach"
    plain, about = encoded(world, world.subject("anna"), prompt)
    changed, _ = encoded(world, with_placeholder(world, other), prompt)
    row = int(about["model_conds"]["nested_attention_slots"].cond[0, 0, 1])
    difference = (plain - changed).abs().amax(-1)[0]
    assert row == 4
    assert not bool(difference[:row].any()), "the text encoders look back only"
    assert bool((difference[row:] > 0).all())
    width = len(other["l"])
    for stream, part in (("l", slice(0, width)), ("g", slice(width, None))):
        if stream in other:
            assert bool((plain - changed)[0, row, part].any()), stream
    bare, _ = encoded(world, with_placeholder(world, other), "a photo of a person")
    assert torch.equal(bare, encoded(world, world.subject("anna"), "a photo of a person")[0])


def method_with_placeholder(world, frozen, denoiser):
    step = training_step(world, denoiser)
    module = core("training.placeholder").TrainedPlaceholder(frozen.class_embedding(), frozen, 8)
    step.method.placeholder = module
    return step


def test_it_begins_as_the_class_word_and_gets_its_gradient(world):
    frozen, denoiser = frozen_models(world), denoiser_of(world)
    batch = replace(random_batch(frozen, 2), captions=CAPTIONS[:2])
    without = losses_of(training_step(world, denoiser), batch)
    step = method_with_placeholder(world, frozen, denoiser)
    losses = losses_of(step, batch)
    assert torch.allclose(without, losses, rtol=1e-4)
    losses.sum().backward()
    for stream, parameter in step.method.placeholder.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and bool(gradient.any()), stream
        length = 0.02 * float(parameter.detach().norm())
        direction = gradient / gradient.norm()

        def moved(sign, parameter=parameter, direction=direction, length=length):
            with torch.no_grad():
                parameter.add_(sign * length * direction)
                found = losses_of(step, batch).double().sum()
                parameter.sub_(sign * length * direction)
            return float(found)

        slope = (moved(1) - moved(-1)) / (2 * length)
        assert slope == pytest.approx(float(gradient.norm()), rel=0.1), stream
    assert all(p.grad is None for p in world.clip.patcher.model.parameters())


def test_it_trains_and_comes_back_from_its_file(place, monkeypatch):  # noqa: F811
    made = session(place, "method.train_placeholder=true", "optimiser.rate=0.01", "run.steps=6")
    own = made.learning.frozen.class_embedding()
    assert made.run()
    path = place / "runs" / "anyone" / "anyone.safetensors"
    state, checkpoint = load_file(path), pack("nested_attn_core.checkpoint")
    info = checkpoint.read_info(path)
    assert dict(info.placeholder) == {"l": 128} and info.to_dict()["format_version"] == 2
    trained = state["placeholder.l"].float()
    assert 1e-4 < float((trained - own["l"]).abs().max()) < 1
    assert torch.equal(checkpoint.load_placeholder(path)["l"], trained)
    handle = pack("nodes.host.memory").load(path, "anyone")
    features = torch.zeros(1, 3, info.config.feature_dim)
    subject = handle.subject("anna", features)
    assert torch.equal(subject.placeholder["l"], trained)
    without = replace(handle, placeholder={})
    assert without.fingerprint != handle.fingerprint
    assert without.subject("anna", features).fingerprint != subject.fingerprint

    # It goes on from there, and not without it.
    again = session(place, "method.train_placeholder=true", f"encoder.resume_from={path}")
    assert torch.equal(again.learning.step().method.placeholder.l.detach(), trained)
    with pytest.raises(ValueError, match="set method.train_placeholder to true"):
        session(place, f"encoder.resume_from={path}").learning.step()


def test_a_class_word_of_two_tokens_has_no_one_embedding(worlds):
    frozen = replace(frozen_models(worlds("sd15")), class_word="teddy bear")
    with pytest.raises(ValueError, match='needs a class word of one token, and "teddy bear" has 2'):
        frozen.class_embedding()


def drawn(world, subject):
    model, clip = world.apply(subject)
    prompt, empty = world.encode("a photo of <anna>", clip), world.encode("", clip)
    return world.sample(prompt, empty, model)


def test_a_subject_with_a_placeholder_is_drawn_with_it(world):
    """Down to the latents, and the plain subject's come back after it."""
    other = {stream: vector.flip(0) for stream, vector in own_of(world).items()}
    with torch.no_grad():
        first = drawn(world, world.subject("anna"))
        assert differs(first, drawn(world, with_placeholder(world, other)))
        assert torch.equal(first, drawn(world, world.subject("anna")))


def test_older_readers_are_told_to_update(tmp_path: Path, worlds):
    checkpoint, handle = pack("nested_attn_core.checkpoint"), worlds("sd15").encoder
    info = replace(handle.info, placeholder={"l": 4})
    vector = {"l": torch.arange(4.0)}
    path = tmp_path / "one.safetensors"
    checkpoint.save_encoder(path, handle.patcher.model, info, placeholder=vector)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "FORMAT_VERSION", 1)
        with pytest.raises(ValueError, match="format 2, and this version .* update the pack"):
            checkpoint.read_info(path)
    with pytest.raises(ValueError, match="placeholder is not the one given"):
        checkpoint.save_encoder(path, handle.patcher.model, info)
    with pytest.raises(ValueError, match="width above 0"):
        replace(info, placeholder={"l": 0})


def test_the_node_does_not_go_on_from_one(worlds):
    """It reads captions with the class word's own embedding."""
    world, graph = worlds("sd15"), pack("nodes.host.graph_training")
    denoiser = denoiser_of(world)
    start = replace(world.encoder, placeholder={"l": torch.zeros(64)})
    wishes = graph.Wishes("person", 1, 1, 1e-3, 0, 4, 64, 1, 1.0, False, start)
    with pytest.raises(ValueError, match="trained with a placeholder of its own, which this node"):
        graph._encoder(frozen_models(world), 48, denoiser, wishes)
    with pytest.raises(ValueError, match="reads images through .* connect that CLIP Vision model"):
        graph._encoder(frozen_models(world), 49, denoiser, wishes)
