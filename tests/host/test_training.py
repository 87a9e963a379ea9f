"""Training on the host's models: what is predicted, what trains, and that it learns."""

from __future__ import annotations

import comfy.model_sampling
import pytest
import torch
from torch.nn import functional

from . import conftest

CAPTIONS = ("a photo of <subject> on a beach", "<subject>, smiling", "a drawing of a <subject>")


pytestmark = pytest.mark.usefixtures("gradients")


def core(name: str):
    return conftest.pack(f"nested_attn_core.{name}")


def frozen_models(world):
    """The frozen models of a tiny world; there is no VAE in it."""
    return conftest.pack("nodes.host.frozen").FrozenModels(
        world.model, world.clip, None, world.vision, "person", world.family
    )


def random_batch(frozen, rows: int, seed: int = 0):
    """Samples of random pictures with real captions."""
    generator = torch.Generator().manual_seed(seed)
    texts = frozen.text([CAPTIONS[row % len(CAPTIONS)] for row in range(rows)])
    context, pooled, positions = core("training.data.text").stack_text(texts)
    images = torch.rand(rows, 32, 32, 3, generator=generator)
    return core("training.batches").Batch(
        latents=torch.randn(rows, 4, 8, 8, generator=generator),
        context=context,
        positions=positions,
        features=frozen.features(images),
        conditions=frozen.conditions(pooled, 64, 64),
    )


class Few:
    """The same few samples over and over."""

    def __init__(self, batch):
        self.rows = batch

    def batch(self, numbers):
        rows = torch.tensor([number % len(self.rows) for number in numbers])
        return core("training.batches").Batch(
            latents=self.rows.latents[rows],
            context=self.rows.context[rows],
            positions=self.rows.positions[rows],
            features=self.rows.features[rows],
            conditions={name: value[rows] for name, value in self.rows.conditions.items()},
        )


def training_step(world, denoiser, **options):
    """A fresh small encoder for a world, with the base around it."""
    encoder_module = core("encoder")
    projections = conftest.pack("nodes.host.sites").site_projections(
        world.model.model.diffusion_model
    )
    encoder = encoder_module.NestedEncoder(
        encoder_module.EncoderConfig(
            feature_dim=48,
            tokens=4,
            token_dim=next(iter(projections.values()))[0].shape[1],
            width=32,
            depth=1,
            heads=2,
            head_dim=16,
            ff_mult=2,
            sites=denoiser.sites,
        )
    )
    conftest.randomise(encoder, 5, std=0.1)
    encoder.projections.init_from(projections)
    norm = core("attention").NormControl("text", 2.0)
    method = core("training.methods").NestedMethod(encoder, norm, 16.0)
    return core("training.step").TrainingStep(method, denoiser, **options)


def denoiser_of(world):
    return conftest.pack("nodes.host.training").FrozenDenoiser(world.model)


def test_the_prediction_is_the_hosts(world):
    frozen, denoiser = frozen_models(world), denoiser_of(world)
    batch = random_batch(frozen, 2)
    sigma = denoiser.schedule.sigmas[[200, 800]]
    noised = denoiser.schedule.noise_scaling(sigma, torch.randn(2, 4, 8, 8), batch.latents)
    with torch.no_grad():
        output = denoiser(noised, sigma, batch.context, {}, batch.conditions)
        host = world.model.model.apply_model(
            noised, sigma, c_crossattn=batch.context, **batch.conditions
        )
    ours = denoiser.schedule.calculate_denoised(sigma, output, noised)
    assert torch.allclose(ours, host, rtol=1e-4, atol=1e-4 * float(host.abs().max()))


@pytest.mark.parametrize("autocast", [False, True])
def test_on_a_cpu_attention_on_halves_is_done_in_fp32(autocast):
    in_fp32 = core("training.wide_attention").attend_in_fp32
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randn(1, 2, 5, 8, generator=generator).bfloat16() for _ in range(3)]
    query, key, value = (each.double() for each in halves)
    exact = functional.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = in_fp32(functional.scaled_dot_product_attention, *halves)
    assert torch.equal(ours, exact.bfloat16())


def test_captions_are_read_as_the_nodes_read_prompts(world):
    frozen = frozen_models(world)
    model, clip = world.apply(world.subject("subject"))
    for caption, text in zip(CAPTIONS, frozen.text(CAPTIONS), strict=True):
        ((context, found),) = world.encode(caption, clip)
        assert torch.equal(text.context, context[0])
        slots = found["model_conds"]["nested_attention_slots"].cond[0]
        assert text.positions == tuple(slots[:, 1].tolist())
        if text.pooled is not None:
            assert torch.equal(text.pooled, found["pooled_output"][0])
    assert frozen.text([""])[0].positions == ()


def test_y_is_the_hosts(worlds):
    world = worlds("sdxl")
    frozen = frozen_models(world)
    pooled = torch.randn(2, 96)
    made = frozen.conditions(pooled, 768, 1024)["y"]
    host = world.model.model.encode_adm(pooled_output=pooled, height=768, width=1024, device="cpu")
    assert torch.equal(made, host)
    assert frozen_models(worlds("sd15")).conditions(pooled, 768, 1024) == {}


def losses_of(step, batch):
    """Of each sample, at noise that is always the same."""
    generators = [torch.Generator().manual_seed(row) for row in range(len(batch))]
    sigma = step.noising.draw(step.schedule, generators)
    noise = core("training.objective").draw_noise(batch.latents.shape[1:], generators)
    return step(batch, sigma, noise)


def test_it_learns(world):
    frozen, denoiser = frozen_models(world), denoiser_of(world)
    before = {name: w.clone() for name, w in world.model.model.state_dict().items()}
    batch, trainer = random_batch(frozen, 2), core("training.trainer")
    step = training_step(world, denoiser)
    at_first = losses_of(step, batch).mean().detach()
    seen: list[float] = []
    made = trainer.Trainer(
        step,
        Few(batch),
        trainer.RunSettings(steps=50, batch=1, threads=0),
        core("training.optimisers").OptimiserSettings(rate=1e-2, warmup=5),
        listeners=trainer.Listeners(on_step=lambda progress: seen.append(progress.last_loss)),
    )
    weights = made.run()
    assert len(seen) == 50
    at_last = losses_of(step, batch).mean().detach()
    assert at_last < 0.97 * at_first, (at_first, at_last)
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    after = world.model.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the base has moved"


def gradients_of(world, denoiser, batch):
    step = training_step(world, denoiser)
    losses = losses_of(step, batch)
    losses.mean().backward()
    return losses.detach(), {name: p.grad.clone() for name, p in step.named_parameters()}


def test_checkpointing_changes_no_gradient(world, monkeypatch):
    checkpointing = conftest.pack("nodes.host.checkpointing")
    frozen, denoiser = frozen_models(world), denoiser_of(world)
    batch = random_batch(frozen, 2)
    plain = gradients_of(world, denoiser, batch)
    model = world.model.model.diffusion_model
    counts = []
    real = checkpointing.checkpoint
    monkeypatch.setattr(
        checkpointing, "checkpoint", lambda *a, **k: counts.append(1) or real(*a, **k)
    )
    try:
        checkpointing.checkpoint_blocks(model)
        saved = gradients_of(world, denoiser, batch)
    finally:
        checkpointing.release_blocks(model)
    assert len(counts) > len(denoiser.sites)
    assert torch.equal(plain[0], saved[0])
    for name, gradient in plain[1].items():
        assert bool(gradient.any()), f"{name} gets no gradient"
        assert torch.allclose(gradient, saved[1][name], rtol=1e-4, atol=1e-7), name
    assert "forward" not in vars(model.input_blocks[1][0])


def test_rows_without_a_subject_train_nothing(sd15):
    frozen, denoiser = frozen_models(sd15), denoiser_of(sd15)
    batch = random_batch(frozen, 2)
    batch.positions.fill_(-1)
    _, gradients = gradients_of(sd15, denoiser, batch)
    assert all(not bool(gradient.any()) for gradient in gradients.values())


SAMPLING = {
    "epsilon": (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS),
    "v": (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION),
    "flow": (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST),
}


@pytest.fixture(params=sorted(SAMPLING))
def prediction(request):
    """(name, the host's description of a schedule with that prediction type)"""
    return request.param, type("Sampling", SAMPLING[request.param], {})()


def test_the_target_is_the_prediction_types_own(prediction):
    name, schedule = prediction
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    sigma = schedule.sigmas[[100, 500, 900]]
    noised = schedule.noise_scaling(sigma, noise.clone(), latents)
    target = core("training.objective").target(schedule, sigma, noised, latents)
    signal = (1 / (1 + sigma**2)).sqrt().view(-1, 1, 1, 1)  # of the variance preserving form
    expected = {
        "epsilon": noise,
        "v": signal * noise - (1 - signal**2).sqrt() * latents,
        "flow": noise - latents,
    }[name]
    assert torch.allclose(target, expected, atol=1e-4)


def test_min_snr_weighs_as_published(prediction):
    name, schedule = prediction
    sigma = schedule.sigmas[[50, 500, 950]]
    weights = core("training.objective").Noising(min_snr=5.0).weights(schedule, sigma)
    ratio = ((1 - sigma) / sigma) ** 2 if name == "flow" else 1 / sigma**2
    least = ratio.clamp_max(5)
    expected = {
        "epsilon": least / ratio,
        "v": least / (ratio + 1),
        "flow": least * sigma**2,
    }[name]
    assert torch.allclose(weights, expected, rtol=1e-3)


@pytest.mark.parametrize(("shift", "low", "high"), [(-3.0, 0.0, 0.2), (3.0, 0.8, 1.0)])
def test_levels_follow_the_shift(shift, low, high):
    objective = core("training.objective")
    schedule = type("Sampling", SAMPLING["flow"], {})()
    generators = [objective.sample_generator(0, number) for number in range(400)]
    drawn = objective.Noising("logit-normal", shift).draw(schedule, generators)
    assert low < float(drawn.median()) < high
    uniform = objective.Noising("uniform").draw(schedule, generators)
    assert 0.42 < float(uniform.mean()) < 0.58
    assert set(drawn.tolist()) <= set(schedule.sigmas.tolist())


OWN = """
def colour_of(pictures):
    return pictures.mean((2, 3)) - 0.4
"""


@pytest.fixture(scope="module")
def miniature(host):
    """The frozen models of the miniature."""
    with torch.inference_mode(False):
        return conftest.pack("nodes.host.frozen").load_frozen("miniature", "miniature", "person")


@pytest.mark.parametrize("name", ["backbone", "own_embedder:colour_of"])
def test_the_identity_loss_has_the_gradient_that_it_says(miniature, name, tmp_path, monkeypatch):
    (tmp_path / "own_embedder.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    schedule = miniature.model.get_model_object("model_sampling")
    loss = conftest.pack("nodes.host.identity").identity_loss(miniature, schedule, name, 2.0, 0.5)
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    latents = miniature.latents(pictures)
    sigma = torch.tensor([0.3, 0.9])
    exact = loss(latents.clone().requires_grad_(True), latents, sigma)
    assert torch.allclose(exact, torch.zeros(2), atol=1e-5)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    predicted = (latents + 0.3 * direction).requires_grad_(True)
    losses = loss(predicted, latents, sigma)
    (gradient,) = torch.autograd.grad(losses.sum(), predicted)
    assert losses[0] > 0 and losses[1] == 0 and not bool(gradient[1].any())
    step = 1e-2 * gradient[:1] / gradient[:1].norm()
    with torch.no_grad():
        ahead, behind = (
            loss(predicted[:1] + sign * step, latents[:1], sigma[:1]) for sign in (1, -1)
        )
    assert float(ahead - behind) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_an_embedder_that_is_not_there_is_told():
    with pytest.raises(ValueError, match='"nowhere:f", which cannot be imported'):
        core("training.identity").embedder_of("nowhere:f")
    with pytest.raises(ValueError, match="there is no colon in it"):
        core("training.identity").embedder_of("nowhere")


def test_drops_leave_out_the_caption_or_the_reference(worlds):
    world = worlds("sdxl")
    frozen = frozen_models(world)
    batch = random_batch(frozen, 3)
    drops = core("training.drops").Drops(Few(batch), frozen, 8, text=0.4, image=0.4, seed=2)
    numbers = list(range(60))
    whole, found = Few(batch).batch(numbers), drops.batch(numbers)
    no_image = ~found.features.flatten(1).any(1)
    no_text = (found.context != whole.context).flatten(1).any(1)
    assert 10 < int(no_image.sum()) < 40 and 10 < int(no_text.sum()) < 40
    assert not bool((no_image & no_text).any())
    (bare,) = frozen.text(["<subject>"])
    assert torch.equal(found.context[no_text][0], bare.context)
    assert found.positions[no_text][0].tolist() == list(bare.positions)
    y = frozen.conditions(bare.pooled[None], 64, 64)["y"][0]
    assert torch.equal(found.conditions["y"][no_text][0], y)
    kept = ~(no_image | no_text)
    assert torch.equal(found.features[kept], whole.features[kept])
    assert torch.equal(found.latents, whole.latents)
    alone = drops.batch([41])
    assert torch.equal(alone.context[0], found.context[41])
    assert torch.equal(alone.features[0], found.features[41])
