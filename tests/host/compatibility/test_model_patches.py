"""Nodes of the host that patch a MODEL, before and after Apply Nested Attention."""

from __future__ import annotations

from typing import Any

import pytest

from ..conftest import differs
from .conftest import Apply, Graph, Lab, Node

UNET, GUIDANCE = "Patches of the UNet", "Guidance and sampling patches"


def patch(section: str, kind: str, title: str = "", **inputs: Any) -> Any:
    """A node of the host with inputs that give it an effect on the small model."""
    mark = pytest.mark.compatibility(section, title or kind)
    return pytest.param(kind, inputs, marks=mark, id=kind)


# These change what the UNet computes, so that the order might matter.
ORDERED = [
    patch(UNET, "FreeU"),
    patch(UNET, "FreeU_V2"),
    patch(UNET, "TomePatchModel", "TomePatchModel (token merging)", ratio=0.5),
    patch(UNET, "HyperTile", tile_size=64),
    patch(
        UNET,
        "PatchModelAddDownscale",
        "PatchModelAddDownscale (Deep Shrink)",
        block_number=2,
        end_percent=1.0,
    ),
    patch(UNET, "UNetSelfAttentionMultiply", q=1.5),
    patch(UNET, "UNetCrossAttentionMultiply", q=1.5),
    patch(
        UNET,
        "ContextWindowsManual",
        "ContextWindowsManual over the height (the host's own way of sampling in tiles)",
        context_length=12,
        context_overlap=4,
        dim=2,
    ),
    patch(GUIDANCE, "PerturbedAttentionGuidance"),
    patch(GUIDANCE, "SelfAttentionGuidance"),
    patch(GUIDANCE, "ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
    patch(GUIDANCE, "ModelSamplingContinuousEDM", sampling="v_prediction"),
]
# These work on what the UNet has computed.
LATER = [
    patch(GUIDANCE, "RescaleCFG"),
    patch(GUIDANCE, "APG"),
    patch(GUIDANCE, "TCFG"),
    patch(GUIDANCE, "FreSca", freq_cutoff=4),
    patch(GUIDANCE, "Mahiro"),
    patch(GUIDANCE, "CFGNorm", strength=0.5),
    patch(GUIDANCE, "CFGZeroStar"),
    patch(GUIDANCE, "Epsilon Scaling", scaling_factor=1.2),
    patch(GUIDANCE, "TemporalScoreRescaling", tsr_k=0.7),
    patch(GUIDANCE, "EasyCache", reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, steps=6),
    patch(GUIDANCE, "LazyCache", reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, steps=6),
]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("kind", "inputs"), ORDERED)
def test_a_patch_before_and_after_ours(
    lab: Lab, pictures: dict[Any, Any], kind: str, inputs: dict[str, Any], order: str
) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        if order == "before":
            model, clip = apply(graph(kind, model=graph.model, **inputs), graph.clip)
        else:
            model, clip = apply(graph.model, graph.clip)
            model = graph(kind, model=model, **inputs)
        return graph.image(model, clip, text)

    acting, pictures[kind] = lab.compare(graph, pictures.get(kind), without=lab.bare)
    assert not differs(acting, pictures.setdefault((kind, "acting"), acting))


@pytest.mark.parametrize(("kind", "inputs"), LATER)
def test_a_patch_of_the_guidance(
    lab: Lab, pictures: dict[Any, Any], kind: str, inputs: dict[str, Any]
) -> None:
    inputs = dict(inputs)
    steps = inputs.pop("steps", 2)

    def plain(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph.image(model, clip, text, steps=steps)

    def patched(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph.image(graph(kind, model=model, **inputs), clip, text, steps=steps)

    if ("bare", steps) not in pictures:
        pictures["bare", steps] = lab.run(plain)
    lab.compare(patched, without=pictures["bare", steps])


@pytest.mark.compatibility(GUIDANCE, "LatentApplyOperationCFG")
def test_an_operation_on_the_latent(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        tone = graph("LatentOperationTonemapReinhard")
        model = graph("LatentApplyOperationCFG", model=model, operation=tone)
        return graph.image(model, clip, text)

    lab.compare(graph, without=lab.bare)


@pytest.mark.compatibility(GUIDANCE, "PerpNeg (the deprecated node)")
def test_the_older_perp_neg(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        empty = graph.text(clip, "")
        return graph.image(graph("PerpNeg", model=model, empty_conditioning=empty), clip, text)

    lab.compare(graph, without=lab.bare)
