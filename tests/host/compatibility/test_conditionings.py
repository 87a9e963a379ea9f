"""Nodes of the host between a text encode and a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.model_management
import pytest
import torch

from ..conftest import differs, randomise
from .conftest import PIXELS, PROMPT, Apply, Graph, Lab, Node, Small
from .test_weights import files  # noqa: F401 (a fixture: a LoRA for the hooks)

REGIONS, PROMPTS = "Regions", "Prompts put together"
HOOKS, CONTROL = "Conditioning hooks", "ControlNet"


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, PIXELS, PIXELS)
    mask[..., : PIXELS // 2] = 1
    return mask


def positive(change: Callable[[Graph, Any, Any, str], Any], **settings: Any) -> Any:
    """A graph whose positive conditioning is what `change` makes of a clip and a text."""

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        changed = change(graph, clip, graph.text(clip, text), text)
        return graph.sample(model, changed, graph.text(clip, "blurry"), **settings)

    return graph


def with_scene(graph: Graph, clip: Any, conditioning: Any) -> Node:
    scene = graph.text(clip, "a beach")
    return graph("ConditioningCombine", conditioning_1=conditioning, conditioning_2=scene)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("ConditioningSetArea", {"width": PIXELS // 2, "height": PIXELS, "x": 0, "y": 0}),
        ("ConditioningSetAreaPercentage", {"width": 0.5, "height": 1.0, "x": 0.0, "y": 0.0}),
        ("ConditioningSetMask", {"mask": left_half()}),
        (
            "ConditioningSetMask",
            {"mask": left_half(), "set_cond_area": "mask bounds"},
        ),
    ],
    ids=["area", "area in percent", "mask", "mask bounds"],
)
@pytest.mark.compatibility(
    REGIONS,
    "ConditioningSetArea, SetAreaPercentage, SetMask (both ways), with Combine",
    note="the subject keeps to the region of its prompt",
)
def test_a_region(lab: Lab, kind: str, inputs: dict[str, Any]) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        given = {k: graph.value(v)[0] if k == "mask" else v for k, v in inputs.items()}
        return with_scene(graph, clip, graph(kind, conditioning=prompt, **given))

    acting, plain = lab.compare(positive(change), without=lab.bare)
    moved = (acting - plain).abs().mean((0, 1, 2))
    half = len(moved) // 2
    assert moved[:half].mean() > 2 * moved[half:].mean()


@pytest.mark.compatibility(REGIONS, "a region each for two subjects")
def test_two_regions(lab: Lab) -> None:
    def halves(texts: tuple[str, str]) -> Any:
        def graph(graph: Graph, apply: Apply, text: str) -> Node:
            model, clip = apply(graph.model, graph.clip)
            size = {"width": PIXELS // 2, "height": PIXELS, "y": 0}
            left, right = (
                graph("ConditioningSetArea", conditioning=graph.text(clip, each), x=x, **size)
                for each, x in zip(texts, (0, PIXELS // 2), strict=True)
            )
            both = graph("ConditioningCombine", conditioning_1=left, conditioning_2=right)
            prompt = with_scene(graph, clip, both)
            return graph.sample(model, prompt, graph.text(clip, "blurry"))

        return graph

    def two(graph: Graph, model: Any, clip: Any) -> tuple[Any, Any]:
        return graph.apply(lab.rex, *graph.apply(lab.anna, model, clip))

    plain = lab.run(halves(("a person", "a dog")))
    both = lab.run(halves(("a <anna>", "a <rex>")), two)
    left = lab.run(halves(("a <anna>", "a dog")), two)
    assert differs(left, plain) and differs(both, left)
    moved = (both - left).abs().mean((0, 1, 2))
    assert moved[len(moved) // 2 :].mean() > 2 * moved[: len(moved) // 2].mean()


@pytest.mark.compatibility(REGIONS, "ConditioningSetTimestepRange, with Combine")
@pytest.mark.parametrize("early", [True, False])
def test_a_prompt_for_some_steps(lab: Lab, early: bool) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        other = graph.text(clip, "a house")
        halves = [(prompt, 0.0, 0.5), (other, 0.5, 1.0)] if early else []
        halves = halves or [(other, 0.0, 0.5), (prompt, 0.5, 1.0)]
        first, second = (
            graph("ConditioningSetTimestepRange", conditioning=c, start=start, end=end)
            for c, start, end in halves
        )
        return graph("ConditioningCombine", conditioning_1=first, conditioning_2=second)

    without = lab.run(positive(lambda graph, clip, prompt, text: prompt, steps=4))
    lab.compare(positive(change, steps=4), without=without)


@pytest.mark.compatibility(PROMPTS, "ConditioningCombine")
def test_combined_prompts(lab: Lab) -> None:
    lab.compare(positive(lambda graph, clip, prompt, text: with_scene(graph, clip, prompt)))


@pytest.mark.compatibility(PROMPTS, "ConditioningConcat, the subject in its conditioning_to")
def test_concatenated_prompts(lab: Lab) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        other = graph.text(clip, "a house")
        return graph("ConditioningConcat", conditioning_to=prompt, conditioning_from=other)

    lab.compare(positive(change), without=lab.bare)


@pytest.mark.compatibility(PROMPTS, "ConditioningAverage, the subject in its conditioning_to")
def test_averaged_prompts(lab: Lab) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        averaged = {"conditioning_to": prompt, "conditioning_from": graph.text(clip, "a house")}
        return graph("ConditioningAverage", **averaged, conditioning_to_strength=0.6)

    lab.compare(positive(change), without=lab.bare)


@pytest.mark.compatibility(
    PROMPTS,
    "ConditioningConcat and ConditioningAverage, the subject only in conditioning_from",
    "cannot work: the log says that no prompt names the subject, and where to name it",
    note="the host keeps what belongs to conditioning_to only",
)
@pytest.mark.parametrize("kind", ["ConditioningConcat", "ConditioningAverage"])
def test_the_other_side_of_a_join(lab: Lab, caplog: Any, kind: str) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        other = graph.text(clip, "a house")
        return graph(kind, conditioning_to=other, conditioning_from=prompt)

    plain = lab.run(positive(change))
    with caplog.at_level("WARNING", "nested_attention"):
        assert torch.equal(lab.run(positive(change), lab.on, PROMPT), plain)
    (record,) = caplog.records
    assert "No prompt names the subject <anna>" in record.getMessage()
    assert "conditioning_to" in record.getMessage()


@pytest.mark.compatibility(PROMPTS, "ConditioningZeroOut as the negative")
def test_a_zeroed_negative(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        prompt = graph.text(clip, text)
        return graph.sample(model, prompt, graph("ConditioningZeroOut", conditioning=prompt))

    lab.compare(graph, without=lab.bare)


@pytest.fixture(scope="module")
def control_net() -> Any:
    """The host's ControlNet, small and random."""
    with torch.inference_mode(False), torch.no_grad():
        sizes = {**Small.unet_config, **Small.unet_extra_config, "hint_channels": 3}
        sizes.pop("out_channels")
        model = comfy.cldm.cldm.ControlNet(**sizes)
        randomise(model, 31)
    return comfy.controlnet.ControlNet(
        model, load_device=comfy.model_management.get_torch_device(), extra_conds=[]
    )


@pytest.mark.compatibility(
    CONTROL,
    "ControlNetApplyAdvanced",
    note="the ControlNet itself reads the class word in the subject's place",
)
def test_a_control_net(lab: Lab, control_net: Any) -> None:
    hint = torch.rand(1, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(1))

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        controlled = graph(
            "ControlNetApplyAdvanced",
            positive=graph.text(clip, text),
            negative=graph.text(clip, "blurry"),
            control_net=graph.value(control_net),
            image=graph.value(hint),
        )
        return graph.sample(model, controlled[0], controlled[1])

    lab.compare(graph, without=lab.bare)


@pytest.mark.compatibility(CONTROL, "ControlNetApply, on the positive prompt alone")
def test_a_control_net_on_the_positive(lab: Lab, control_net: Any) -> None:
    hint = torch.rand(1, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(1))

    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        objects = {"control_net": graph.value(control_net), "image": graph.value(hint)}
        return graph("ControlNetApply", conditioning=prompt, **objects)

    lab.compare(positive(change), without=lab.bare)


def lora_hook(graph: Graph, clip: float = 0.0) -> Node:
    return graph("CreateHookLora", lora_name="test.safetensors", strength_clip=clip)


@pytest.mark.compatibility(HOOKS, "a LoRA hook on the positive prompt (Cond Set Props)")
def test_a_lora_hook(lab: Lab) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        return graph("ConditioningSetProperties", cond_NEW=prompt, hooks=lora_hook(graph))

    lab.compare(positive(change), without=lab.bare)


@pytest.mark.compatibility(HOOKS, "a LoRA hook by region, over Cond Set Default Combine")
def test_a_hook_by_region(lab: Lab) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        mask = {"mask": graph.value(left_half()), "hooks": lora_hook(graph)}
        here = graph("ConditioningSetProperties", cond_NEW=prompt, **mask)
        beach = graph.text(clip, "a beach")
        return graph("ConditioningSetDefaultCombine", cond=here, cond_DEFAULT=beach)

    lab.compare(positive(change), without=lab.bare)


@pytest.mark.compatibility(HOOKS, "keyframes of a hook")
def test_keyframes(lab: Lab) -> None:
    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        frames = graph("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
        later = {"strength_mult": 0.2, "start_percent": 0.5, "prev_hook_kf": frames}
        frames = graph("CreateHookKeyframe", **later)
        hooks = graph("SetHookKeyframes", hooks=lora_hook(graph), hook_kf=frames)
        return graph("ConditioningSetProperties", cond_NEW=prompt, hooks=hooks)

    lab.compare(positive(change), without=lab.bare)


@pytest.mark.compatibility(HOOKS, "SetClipHooks, with and without a schedule, before and after")
@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("order", ["before", "after"])
def test_hooks_of_the_clip(lab: Lab, pictures: dict[Any, Any], schedule: bool, order: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        def hooked(clip: Any) -> Node:
            frames = graph("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
            later = {"strength_mult": 0.2, "start_percent": 0.5, "prev_hook_kf": frames}
            frames = graph("CreateHookKeyframe", **later)
            hooks = graph("SetHookKeyframes", hooks=lora_hook(graph, 1.0), hook_kf=frames)
            return graph("SetClipHooks", clip=clip, hooks=hooks, schedule_clip=schedule)

        if order == "before":
            model, clip = apply(graph.model, hooked(graph.clip))
        else:
            model, clip = apply(graph.model, graph.clip)
            clip = hooked(clip)
        return graph.image(model, clip, text)

    name = ("clip hooks", schedule)
    acting, pictures[name] = lab.compare(graph, pictures.get(name), without=lab.bare)
    assert not differs(acting, pictures.setdefault((*name, "acting"), acting))


@pytest.mark.compatibility(HOOKS, "a hook that sets options of the transformer")
def test_an_options_hook(lab: Lab) -> None:
    """As packs put patches on some conditionings only."""
    seen: list[Any] = []

    def look(n: Any, context: Any, value: Any, extra: Any) -> tuple[Any, Any, Any]:
        seen.append(extra["cond_or_uncond"])
        return n * 1.2, context, value

    options: Any = {"patches": {"attn2_patch": [look]}}
    hook = comfy.hooks.TransformerOptionsHook(
        transformers_dict=options,
        hook_scope=comfy.hooks.EnumHookScope.HookedOnly,
    )
    group = comfy.hooks.HookGroup()
    group.add(hook)

    def change(graph: Graph, clip: Any, prompt: Any, text: str) -> Node:
        return graph("ConditioningSetProperties", cond_NEW=prompt, hooks=graph.value(group))

    lab.compare(positive(change), without=lab.bare)
    assert seen and all(numbers == [0] for numbers in seen)
