"""Guiders, samplers and schedulers of the host."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch

from ..conftest import differs
from .conftest import PIXELS, PLAIN, PROMPT, SAMPLER, Apply, Graph, Lab, Node

SAMPLING = "Samplers and guiders"


def advanced(
    graph: Graph, guider: Node, sampler: Any = None, sigmas: Any = None, model: Any = None
) -> Node:
    """SamplerCustomAdvanced, by default as KSampler would sample."""
    scheduler = {"model": model, "scheduler": "normal", "steps": 2}
    return graph(
        "SamplerCustomAdvanced",
        noise=graph("RandomNoise", noise_seed=1),
        guider=guider,
        sampler=sampler or graph("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas or graph("BasicScheduler", **scheduler),
        latent_image=graph.latent(),
    )


@pytest.mark.compatibility(SAMPLING, "SamplerCustomAdvanced with CFGGuider")
def test_the_advanced_sampler(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        guider = graph(
            "CFGGuider",
            model=model,
            positive=graph.text(clip, text),
            negative=graph.text(clip, "blurry"),
            cfg=SAMPLER["cfg"],
        )
        return advanced(graph, guider, model=model)

    acting, plain = lab.compare(graph)
    assert torch.equal(plain, lab.bare)


@pytest.mark.compatibility(SAMPLING, "BasicGuider (one conditioning)")
def test_a_guider_without_a_negative(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        guider = graph("BasicGuider", model=model, conditioning=graph.text(clip, text))
        return advanced(graph, guider, model=model)

    lab.compare(graph, without=lab.bare)


@pytest.mark.compatibility(SAMPLING, "DualCFGGuider, a subject in either of its conditionings")
@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("style", ["regular", "nested"])
def test_the_dual_guider(lab: Lab, pictures: dict[Any, Any], named: int, style: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        texts = [text, "a house"] if named == 0 else ["a house", text]
        conds = {f"cond{i + 1}": graph.text(clip, each) for i, each in enumerate(texts)}
        negative = graph.text(clip, "blurry")
        guider = graph("DualCFGGuider", model=model, negative=negative, **conds, style=style)
        return advanced(graph, guider, model=model)

    # The host numbers them negative, middle (cond2), positive (cond1).
    lab.compare(graph, without=lab.bare, rows={2 if named == 0 else 1})


@pytest.mark.compatibility(SAMPLING, "PerpNegGuider")
def test_the_perp_neg_guider(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        conds = {"positive": text, "negative": "blurry", "empty_conditioning": ""}
        prompts = {name: graph.text(clip, each) for name, each in conds.items()}
        return advanced(graph, graph("PerpNegGuider", model=model, **prompts), model=model)

    lab.compare(graph, without=lab.bare)


@pytest.mark.compatibility(SAMPLING, "PerpNegGuider, a subject in its third conditioning")
def test_a_subject_in_the_third_conditioning(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        conds = {"positive": "a house", "negative": "blurry", "empty_conditioning": text}
        prompts = {name: graph.text(clip, each) for name, each in conds.items()}
        return advanced(graph, graph("PerpNegGuider", model=model, **prompts), model=model)

    lab.compare(graph, without=lab.bare, rows={2})


@pytest.mark.compatibility(SAMPLING, "SamplerCustom")
def test_the_custom_sampler(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph(
            "SamplerCustom",
            model=model,
            noise_seed=1,
            cfg=SAMPLER["cfg"],
            positive=graph.text(clip, text),
            negative=graph.text(clip, "blurry"),
            sampler=graph("KSamplerSelect", sampler_name="euler"),
            sigmas=graph("BasicScheduler", model=model, scheduler="normal", steps=2),
            latent_image=graph.latent(),
        )

    acting, plain = lab.compare(graph)
    assert torch.equal(plain, lab.bare)


@pytest.mark.compatibility(SAMPLING, "KSamplerAdvanced in two parts, a subject in each part")
def test_the_sampling_in_two_parts(lab: Lab, pictures: dict[Any, Any]) -> None:
    def part(named: tuple[bool, bool]) -> Any:
        def graph(graph: Graph, apply: Apply, text: str) -> Node:
            model, clip = apply(graph.model, graph.clip)
            latent = graph.latent()
            for first, name in enumerate(named):
                latent = graph(
                    "KSamplerAdvanced",
                    add_noise="disable" if first else "enable",
                    return_with_leftover_noise="disable" if first else "enable",
                    model=model,
                    positive=graph.text(clip, text if name else PLAIN),
                    negative=graph.text(clip, "blurry"),
                    latent_image=latent,
                    noise_seed=1,
                    steps=4,
                    start_at_step=2 * first,
                    end_at_step=2 * first + 2,
                    cfg=SAMPLER["cfg"],
                    sampler_name="euler",
                    scheduler="normal",
                )
            return latent

        return graph

    both, plain = lab.compare(part((True, True)))
    late = lab.run(part((False, True)), lab.on, PROMPT)
    assert differs(late, plain) and differs(late, both)


@pytest.mark.compatibility(SAMPLING, "KSampler: every sampler that the host lists")
@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler(lab: Lab, name: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        latent = graph("EmptyLatentImage", width=PIXELS // 2, height=PIXELS // 2)
        return graph.image(model, clip, text, latent=latent, sampler_name=name, steps=2)

    lab.compare(graph)


@pytest.mark.compatibility(SAMPLING, "KSampler: every scheduler that the host lists")
@pytest.mark.parametrize("name", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler(lab: Lab, name: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        latent = graph("EmptyLatentImage", width=PIXELS // 2, height=PIXELS // 2)
        return graph.image(model, clip, text, latent=latent, scheduler=name, steps=3)

    lab.compare(graph)
