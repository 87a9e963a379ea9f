"""Subjects in images: where they act, and that nothing changes where they do not.

Each equality stands beside a difference, so that none of them holds because nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .conftest import World, counted, differs, pack

PROMPT = "a photo of <anna> on a beach"
PLAIN = "a photo of person on a beach"
SECOND = pytest.mark.compatibility(
    "More of ours", "a second Apply, which joins the first and keeps its own settings"
)


def image(world: World, model: Any, clip: Any, text: str, **options: Any) -> torch.Tensor:
    return world.sample(world.encode(text, clip), world.encode("blurry", clip), model, **options)


def plain(world: World, text: str = PLAIN, **options: Any) -> torch.Tensor:
    return image(world, world.model, world.clip, text, **options)


def applied(world: World, text: str = PROMPT, **settings: Any) -> torch.Tensor:
    return image(world, *world.apply(world.subject(), **settings), text)


def test_every_site_is_found_and_visited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"sd15": 16, "sdxl": 70}[world.family]
    sites = pack("nodes.host.sites").discover_sites(world.model.model.diffusion_model)
    assert len({site.key for site in sites}) == len(sites) == expected
    run = pack("nodes.host.run")
    runs = []
    monkeypatch.setattr(run.Run, "close", lambda self: runs.append(self))
    applied(world)
    assert runs[0].visited == {site.name for site in sites}


def test_apply_says_what_its_subjects_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    report, run = pack("nodes.host.report").model_report, pack("nodes.host.run")
    runs: list[Any] = []
    monkeypatch.setattr(run.Run, "close", lambda self: runs.append(self))
    subject = world.subject()
    model, clip = world.apply(subject)
    image(world, model, clip, PROMPT)
    (held,) = runs[0]._made.values()
    size = sum(part.nbytes for pair in held.values() for part in pair) / 1e6
    sites = {"sd15": 16, "sdxl": 70}[world.family]
    assert report(model).splitlines() == [
        f"{sites} cross-attention sites patched",
        f"anna: {len(subject.tokens)} tokens, {size:.1f} MB while sampling",
    ]
    off, _ = world.apply(subject, strength=0.0)
    assert report(off).endswith("anna: changes nothing, by its strength or its mask")


def test_a_named_subject_changes_the_image(world: World) -> None:
    assert differs(applied(world), plain(world))


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0.0},
        {"mask": torch.zeros(1, 64, 64)},
        {"start_percent": 1.0, "end_percent": 1.0},
        {"start_percent": 0.0, "end_percent": 0.0},
    ],
    ids=["strength 0", "empty mask", "range after the last step", "range before the first step"],
)
def test_what_switches_a_subject_off_leaves_the_plain_image(
    world: World, settings: dict[str, Any]
) -> None:
    assert torch.equal(applied(world, **settings), plain(world))


def test_the_same_settings_switched_on_change_the_image(sd15: World) -> None:
    whole = applied(sd15)
    every: list[dict[str, Any]] = [
        {"strength": 0.5},
        {"mask": torch.ones(1, 64, 64) * 0.5},
        {"start_percent": 0.5},
        {"end_percent": 0.5},
        {"norm": "none"},
        {"norm": "text", "norm_factor": 1.0},
        {"token_weight": 3.0},
    ]
    for settings in every:
        some = applied(sd15, **settings)
        assert not torch.equal(some, plain(sd15)) and not torch.equal(some, whole), settings
    assert torch.equal(applied(sd15, norm="text", norm_factor=2.0), whole)


def test_a_prompt_without_the_name_is_the_plain_image(world: World) -> None:
    model, clip = world.apply(world.subject())
    assert torch.equal(image(world, model, clip, PLAIN), plain(world))
    assert differs(image(world, model, clip, PROMPT), plain(world))


def test_the_models_upstream_are_untouched_after_ten_runs(world: World) -> None:
    before = plain(world, steps=1)
    model, clip = world.apply(world.subject())
    images = [image(world, model, clip, PROMPT, steps=1) for _ in range(10)]
    assert all(torch.equal(images[0], later) for later in images)
    assert differs(images[0], before)
    assert torch.equal(plain(world, steps=1), before)
    assert not world.model.wrappers and not world.model.callbacks
    assert not world.model.model_options["transformer_options"]
    assert not world.model.object_patches and not world.clip.patcher.object_patches


def test_positive_and_negative_run_as_one_batch(world: World) -> None:
    model, clip = world.apply(world.subject())
    model, calls = counted(model)
    image(world, model, clip, PROMPT, steps=3)
    assert calls == [2, 2, 2]


def test_a_negative_of_another_length_runs_in_the_same_batch(sd15: World) -> None:
    model, clip = sd15.apply(sd15.subject())
    model, calls = counted(model)
    positive = sd15.encode(PROMPT, clip)
    negative = sd15.encode("blurry", clip)
    twice = [[torch.cat([negative[0][0]] * 2, dim=1), negative[0][1]]]
    short, long = sd15.sample(positive, negative, model), sd15.sample(positive, twice, model)
    assert calls == [2] * 4
    # The host repeats the shorter context, in which the subject's token then stands twice.
    assert (short - long).abs().max() < 1e-3 * short.std()
    assert differs(short, plain(sd15))


def test_a_long_prompt_beside_a_short_one(sd15: World) -> None:
    long = "many small things, " * 20 + PROMPT
    model, clip = sd15.apply(sd15.subject())
    model, calls = counted(model)
    out = image(sd15, model, clip, long)
    assert calls == [2, 2]
    assert differs(out, plain(sd15, long.replace("<anna>", "person")))


def test_a_batch_of_latents_has_the_subject_in_each(sd15: World) -> None:
    model, clip = sd15.apply(sd15.subject())
    with_subject = image(sd15, model, clip, PROMPT, batch=3)
    without = plain(sd15, batch=3)
    assert all(differs(a, b) for a, b in zip(with_subject, without, strict=True))
    first = image(sd15, model, clip, PROMPT)
    assert (with_subject[:1] - first).abs().max() < 1e-3 * first.std()


def test_the_negative_stays_without_the_subject(sd15: World) -> None:
    model, clip = sd15.apply(sd15.subject())
    alone = sd15.sample(sd15.encode(PROMPT, clip), sd15.encode("blurry"), model, cfg=1.0)
    prompts = [sd15.encode(PROMPT, clip), sd15.encode("person", clip)]
    named = sd15.sample(prompts[0], sd15.encode("<anna>", clip), model)
    unnamed = sd15.sample(prompts[0], prompts[1], model)
    assert differs(named, unnamed)
    assert differs(alone, unnamed)


def test_a_zeroed_out_negative_carries_no_subject(sd15: World, host: Any) -> None:
    # With "text" the nested values would be as long as the zeroed ones: no effect to be missed.
    model, clip = sd15.apply(sd15.subject(), norm="none")
    positive = sd15.encode(PROMPT, clip)
    tagged = host.ConditioningZeroOut().zero_out(positive)[0]
    untagged = host.ConditioningZeroOut().zero_out(sd15.encode(PLAIN))[0]
    assert "model_conds" in tagged[0][1] and "model_conds" not in untagged[0][1]
    expected = sd15.sample(positive, untagged, model)
    assert torch.equal(sd15.sample(positive, tagged, model), expected)
    assert differs(sd15.sample(positive, positive, model), expected)


def test_areas_hold_the_subject_where_their_prompt_names_it(sd15: World, host: Any) -> None:
    model, clip = sd15.apply(sd15.subject())
    area = host.ConditioningSetArea()

    def picture(used: Any, text: str, clip_used: Any) -> torch.Tensor:
        left = area.append(sd15.encode(text, clip_used), 64, 128, 0, 0, 1.0)[0]
        scene = sd15.encode("a beach", clip_used)
        return sd15.sample(left + scene, sd15.encode("blurry", clip_used), used)

    named, plain_image = picture(model, PROMPT, clip), picture(sd15.model, PLAIN, sd15.clip)
    assert torch.equal(picture(model, PLAIN, clip), plain_image)
    assert differs(named, plain_image)
    change = (named - plain_image).abs().mean((0, 1, 2))
    assert change[:8].mean() > 2 * change[8:].mean()


def test_the_opposite_of_an_area_holds_no_subject(sd15: World, host: Any) -> None:
    """For an area the host copies the positive into the negative list, all but its conditions."""
    model, clip = sd15.apply(sd15.subject())
    bound: list[tuple[int, bool]] = []

    def look(executor: Any, x: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[3]
        plan = options.get(pack("nodes.host.patch").PLAN)
        if plan is not None:
            (subject,) = plan.at("middle.0.0", (2, 2))
            filled = (subject.positions >= 0).any(1).tolist()
            bound.extend(zip(options["cond_or_uncond"], filled, strict=True))
        return executor(x, t, *args, **kwargs)

    model.add_wrapper_with_key("apply_model", "look", look)
    left = host.ConditioningSetArea().append(sd15.encode(PROMPT, clip), 64, 128, 0, 0, 1.0)[0]
    sd15.sample(left + sd15.encode("a beach", clip), sd15.encode("blurry", clip), model, steps=1)
    assert sorted(set(bound)) == [(0, True), (1, False)]


def test_conditioning_masks_keep_the_binding(sd15: World, host: Any) -> None:
    model, clip = sd15.apply(sd15.subject())
    left = torch.zeros(1, 16, 16)
    left[:, :, :8] = 1

    def picture(text: str) -> torch.Tensor:
        masked = host.ConditioningSetMask().append(sd15.encode(text, clip), left, "default", 1.0)
        positive = masked[0] + sd15.encode("a beach", clip)
        return sd15.sample(positive, sd15.encode("blurry", clip), model)

    assert differs(picture(PROMPT), picture(PLAIN))


def test_concatenated_conditionings_bind_only_their_own_tokens(sd15: World, host: Any) -> None:
    """Two contexts in a row are one of twice the length, not one repeated."""
    model, clip = sd15.apply(sd15.subject())
    joined = host.ConditioningConcat().concat(
        sd15.encode(PROMPT, clip), sd15.encode("a dog on a beach", clip)
    )[0]
    settled = pack("nodes.host.carrier")
    condition = {"cross_attn": joined[0][0], **joined[0][1]}
    ((_, row, length),) = settled.slots_of(settled.settled(condition))
    assert (row, length) == (4, 154)
    assert differs(
        sd15.sample(joined, sd15.encode("blurry", clip), model),
        sd15.sample(joined, sd15.encode("blurry", clip)),
    )


def test_two_subjects_in_one_prompt(world: World) -> None:
    subjects = pack("nested_attn_core.subject").Subjects
    anna, rex = world.subject(), world.subject("rex", seed=5, class_word="dog")
    text = "<anna> holding <rex>"
    both = image(world, *world.apply(subjects.of(anna, rex)), text)
    only_anna = image(world, *world.apply(anna), "<anna> holding dog")
    only_rex = image(world, *world.apply(rex), "person holding <rex>")
    neither = plain(world, "person holding dog")
    pictures = [both, only_anna, only_rex, neither]
    assert all(differs(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


@SECOND
def test_a_second_apply_joins_the_first(world: World) -> None:
    anna, rex = world.subject(), world.subject("rex", seed=5, class_word="dog")
    text = "<anna> holding <rex>"
    together = pack("nested_attn_core.subject").Subjects.of(anna, rex)
    at_once = image(world, *world.apply(together), text)
    model, clip = world.apply(rex, *world.apply(anna))
    model, calls = counted(model)
    assert torch.equal(image(world, model, clip, text), at_once)
    assert calls == [2, 2]


@SECOND
def test_a_second_apply_keeps_its_own_settings_and_leaves_the_first(sd15: World) -> None:
    anna, rex = sd15.subject(), sd15.subject("rex", seed=5, class_word="dog")
    first = sd15.apply(anna)
    before = image(sd15, *first, PROMPT)
    second = sd15.apply(rex, *first, strength=0.0)
    assert torch.equal(
        image(sd15, *second, "<anna> holding <rex>"), image(sd15, *first, "<anna> holding dog")
    )
    assert torch.equal(image(sd15, *first, PROMPT), before)


def test_strength_changes_without_encoding_the_prompt_again(sd15: World) -> None:
    """A conditioning names the subject, not its settings."""
    _, clip = sd15.apply(sd15.subject())
    positive, negative = sd15.encode(PROMPT, clip), sd15.encode("blurry", clip)
    half, _ = sd15.apply(sd15.subject(), strength=0.5)
    assert torch.equal(sd15.sample(positive, negative, half), applied(sd15, strength=0.5))


def test_an_earlier_patch_is_kept_and_called(world: World) -> None:
    calls: list[tuple[str, int]] = []
    model = _patched(world, calls, per_site=True)
    both = image(world, *world.apply(world.subject(), model=model), PROMPT)
    expected = {"sd15": 16, "sdxl": 70}[world.family]
    assert len(calls) == 2 * expected
    other = image(world, model, world.clip, PLAIN)
    assert differs(both, other) and differs(both, applied(world)) and differs(other, plain(world))
    off = image(world, *world.apply(world.subject(), model=model, strength=0.0), PROMPT)
    assert torch.equal(off, other)


@pytest.mark.parametrize("before", [True, False], ids=["before ours", "after ours"])
def test_a_patch_on_whole_blocks_is_called_too(sd15: World, before: bool) -> None:
    calls: list[tuple[str, int]] = []
    if before:
        model, clip = sd15.apply(
            sd15.subject(), model=_patched(sd15, calls, per_site=False), strength=0.0
        )
    else:
        model, clip = sd15.apply(sd15.subject(), strength=0.0)
        _patch(model, calls, per_site=False)
    out = image(sd15, model, clip, PROMPT)
    other = image(sd15, _patched(sd15, [], per_site=False), sd15.clip, PLAIN)
    assert len(calls) == 2 * 16
    assert torch.equal(out, other)
    assert differs(out, plain(sd15))


def test_terms_that_other_packs_add_stay_with_their_clone(sd15: World) -> None:
    model, clip = sd15.apply(sd15.subject())
    before = image(sd15, model, clip, PROMPT)
    clone = model.clone()
    for patch in clone.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        patch.add(_half_the_query, sigma_start=1e9, sigma_end=0.0)
        patch.add(_half_the_query, sigma_start=-1.0, sigma_end=-2.0)
    changed = image(sd15, clone, clip, PROMPT)
    assert differs(changed, before)
    assert torch.equal(image(sd15, model, clip, PROMPT), before)
    assert torch.equal(image(sd15, clone.clone(), clip, PROMPT), changed)


def test_an_interrupted_run_leaves_nothing_behind(
    sd15: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.model_management import InterruptProcessingException

    run = pack("nodes.host.run")
    runs: list[Any] = []
    prepare = run.Run.prepare
    monkeypatch.setattr(
        run.Run, "prepare", lambda self, named: (runs.append(self), prepare(self, named))
    )
    model, clip = sd15.apply(sd15.subject())
    before = image(sd15, model, clip, PROMPT)
    stopped = model.clone()
    calls = []

    def stop(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(bool(runs[-1]._made))
        if len(calls) == 2:
            raise InterruptProcessingException
        return executor(*args, **kwargs)

    stopped.add_wrapper_with_key("apply_model", "stop", stop)
    with pytest.raises(InterruptProcessingException):
        image(sd15, stopped, clip, PROMPT)
    assert calls == [True, True]
    assert not runs[-1]._made and not runs[-1]._masks
    assert run.RUN not in stopped.model_options["transformer_options"]
    assert torch.equal(plain(sd15), plain(sd15)) and differs(plain(sd15), before)
    assert torch.equal(image(sd15, model, clip, PROMPT), before)


def test_keys_and_values_are_made_once_a_run(sd15: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = type(sd15.encoder)
    made: list[int] = []
    original = encoder.keys_values
    monkeypatch.setattr(
        encoder, "keys_values", lambda self, *a: (made.append(1), original(self, *a))[1]
    )
    model, clip = sd15.apply(sd15.subject())
    image(sd15, model, clip, PROMPT, steps=4)
    assert made == [1]
    image(sd15, model, clip, PLAIN, steps=1)
    assert made == [1]


def test_the_range_follows_the_schedule_at_run_time(sd15: World) -> None:
    """A shifted schedule put on after Apply moves the steps in which a subject acts."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    model, clip = sd15.apply(sd15.subject(), end_percent=0.5)
    shifted = ModelSamplingContinuousEDM().patch(model, "eps", 120.0, 0.002)[0]
    sigma = shifted.get_model_object("model_sampling").percent_to_sigma(0.5)
    assert sigma != pytest.approx(model.get_model_object("model_sampling").percent_to_sigma(0.5))
    seen: list[tuple[float, bool]] = []

    def look(executor: Any, x: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[3]
        seen.append((float(t[0]), pack("nodes.host.patch").PLAN in options))
        return executor(x, t, *args, **kwargs)

    shifted.add_wrapper_with_key("apply_model", "look", look)
    image(sd15, shifted, clip, PROMPT, steps=6)
    assert [live for _, live in seen] == [value >= sigma for value, _ in seen]
    assert {live for _, live in seen} == {True, False}


def test_a_range_is_read_from_the_schedule_of_a_flow_too() -> None:
    from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow

    class Flow(ModelSamplingDiscreteFlow, CONST):
        pass

    run, flow = pack("nodes.host.run"), Flow()

    def acts_at(start: float, end: float) -> list[bool]:
        class Ranged:
            start_percent, end_percent = start, end

        return [run.in_range(Ranged, sigma, flow) for sigma in (1.0, 0.6, 0.3, 0.0)]

    assert acts_at(0.0, 1.0) == [True, True, True, True]
    assert acts_at(0.0, 0.5) == [True, True, False, False]
    assert acts_at(0.5, 1.0) == [False, False, True, True]
    assert acts_at(0.0, 0.0) == acts_at(1.0, 1.0) == [False] * 4


def test_a_guider_with_three_conditionings(sd15: World) -> None:
    """In the host's dual guider, index 0 is the negative and 1 the middle."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    def picture(model: Any, prompts: tuple[str, str, str], clip: Any) -> torch.Tensor:
        import comfy.samplers

        guider = Guider_DualCFG(model)
        guider.set_conds(*(sd15.encode(text, clip) for text in prompts))
        guider.set_cfg(3.0, 2.0, nested=True)
        latent = torch.zeros(1, 4, 16, 16)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)
        sampler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=1)

    model, clip = sd15.apply(sd15.subject())
    model, calls = counted(model)
    first = picture(model, (PROMPT, PLAIN, "blurry"), clip)
    middle = picture(model, (PLAIN, PROMPT, "blurry"), clip)
    neither = picture(model, (PLAIN, PLAIN, "blurry"), clip)
    stock = picture(sd15.model, (PLAIN, PLAIN, "blurry"), sd15.clip)
    assert torch.equal(neither, stock)
    assert differs(first, neither) and differs(middle, neither) and differs(first, middle)
    assert set(calls) == {3}


def test_a_model_call_outside_a_run_still_has_the_subject(sd15: World) -> None:
    """Other packs may bring a sampling loop of their own."""
    model, clip = sd15.apply(sd15.subject())
    expected = image(sd15, model, clip, PROMPT)
    alone = model.clone()
    run = pack("nodes.host.run")

    def forget(executor: Any, x: Any, t: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        held.append(options["transformer_options"].pop(run.RUN, None))
        return executor(x, t, options, *args, **kwargs)

    alone.add_wrapper_with_key("predict_noise", "forget", forget)
    held: list[Any] = []
    assert torch.equal(image(sd15, alone, clip, PROMPT), expected)
    assert isinstance(held[0], run.Run)


@pytest.mark.compatibility("Attention and compilation", "a model that computes in bfloat16")
def test_half_precision_models_run(sd15: World, worlds: Callable[[str], World]) -> None:
    model, clip = sd15.apply(sd15.subject())
    full = image(sd15, model, clip, PROMPT)
    low = model.clone()
    low.set_model_compute_dtype(torch.bfloat16)
    out = image(sd15, low, clip, PROMPT)
    low_plain = sd15.model.clone()
    low_plain.set_model_compute_dtype(torch.bfloat16)
    without = image(sd15, low_plain, sd15.clip, PLAIN)
    assert torch.isfinite(out).all() and differs(out, without)
    assert (out - full).std() < 0.1 * full.std()


def _half_the_query(out: Any, q: Any, k: Any, v: Any, extra: Any, **_: Any) -> torch.Tensor:
    return q * 0.5


def _patched(world: World, calls: list[tuple[str, int]], per_site: bool) -> Any:
    return _patch(world.model.clone(), calls, per_site)


def _patch(model: Any, calls: list[tuple[str, int]], per_site: bool) -> Any:
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        calls.append(extra["block"])
        return optimized_attention(q, k, v, extra["n_heads"]) * 0.5

    for site in pack("nodes.host.sites").discover_sites(model.model.diffusion_model):
        key = site.key if per_site else site.key[:2]
        model.set_model_attn2_replace(attend, *key)
    return model
