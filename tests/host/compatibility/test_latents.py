"""Where a sampling begins: images, masks, batches, second passes, tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..conftest import build, differs
from .conftest import PIXELS, PROMPT, Apply, Graph, Lab, Node, SmallInpaint

LATENTS, INPAINT = "Images, batches, passes", "Inpainting"


def photo(seed: int = 3) -> torch.Tensor:
    return torch.rand(1, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(seed))


def hole() -> torch.Tensor:
    """The left half."""
    mask = torch.zeros(1, PIXELS, PIXELS)
    mask[..., : PIXELS // 2] = 1
    return mask


def sampled(latent: Any, **settings: Any) -> Any:
    """A graph that samples from what `latent` puts together."""

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        return graph.image(model, clip, text, latent=latent(graph), **settings)

    return graph


def encoded(vae: Any, tiled: bool = False) -> Any:
    def latent(graph: Graph) -> Node:
        objects = {"pixels": graph.value(photo()), "vae": graph.value(vae)}
        if tiled:
            return graph("VAEEncodeTiled", **objects, tile_size=64, overlap=16)
        return graph("VAEEncode", **objects)

    return latent


@pytest.mark.compatibility(LATENTS, "image to image (VAEEncode, denoise below 1)")
def test_image_to_image(lab: Lab, vae: Any) -> None:
    lab.compare(sampled(encoded(vae), denoise=0.6), without=lab.bare)


@pytest.mark.compatibility(LATENTS, "VAEEncodeTiled and VAEDecodeTiled")
def test_a_tiled_vae(lab: Lab, vae: Any) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        latent = sampled(encoded(vae, tiled=True), denoise=0.6)(graph, apply, text)
        tiles = {"tile_size": 64, "overlap": 32}
        return graph("VAEDecodeTiled", samples=latent, vae=graph.value(vae), **tiles)

    acting, _ = lab.compare(graph)
    assert acting.shape == (1, PIXELS, PIXELS, 3)


@pytest.mark.compatibility(LATENTS, "LatentUpscale and a second pass")
def test_a_second_pass(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        first = graph.image(model, clip, text)
        size = {"width": PIXELS + 64, "height": PIXELS + 32, "crop": "disabled"}
        larger = graph("LatentUpscale", samples=first, upscale_method="bilinear", **size)
        return graph.image(model, clip, text, latent=larger, denoise=0.6)

    acting, _ = lab.compare(graph)
    assert acting.shape[-2:] == (PIXELS // 8 + 4, PIXELS // 8 + 8)


@pytest.mark.compatibility(LATENTS, "a subject in the second pass only")
def test_a_subject_in_the_second_pass(lab: Lab) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        first = graph.image(graph.model, graph.clip, "a house")
        return graph.image(model, clip, text, latent=first, denoise=0.6)

    lab.compare(graph)


@pytest.mark.compatibility(LATENTS, "a batch of images; the subject in each of them")
def test_a_batch(lab: Lab) -> None:
    acting, plain = lab.compare(sampled(lambda graph: graph.latent(3)))
    assert all(differs(a, b) for a, b in zip(acting, plain, strict=True))


@pytest.mark.compatibility(LATENTS, "RepeatLatentBatch, LatentFromBatch, RebatchLatents")
def test_repeated_latents(lab: Lab, vae: Any) -> None:
    def latent(graph: Graph) -> Node:
        four = graph("RepeatLatentBatch", samples=encoded(vae)(graph), amount=4)
        return graph("LatentFromBatch", samples=four, batch_index=1, length=2)

    acting, plain = lab.compare(sampled(latent, denoise=0.8))
    assert len(acting) == 2
    assert all(differs(a, b) for a, b in zip(acting, plain, strict=True))

    def apart(graph: Graph) -> Node:
        return graph("RebatchLatents", latents=latent(graph), batch_size=1)

    # The host then samples one after the other; the last one reaches the sink.
    last = lab.run(sampled(apart, denoise=0.8), lab.on, PROMPT)
    assert last.shape == acting[:1].shape and not differs(last, acting[1:])


@pytest.mark.compatibility(INPAINT, "VAEEncodeForInpaint", note="also on an inpainting model")
@pytest.mark.parametrize("inpainting", [False, True], ids=["any model", "inpainting model"])
def test_encode_for_inpaint(lab: Lab, vae: Any, inpaint: Any, inpainting: bool) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        start = graph.value(inpaint) if inpainting else graph.model
        model, clip = apply(start, graph.clip)
        objects = {"pixels": graph.value(photo()), "vae": graph.value(vae)}
        latent = graph("VAEEncodeForInpaint", **objects, mask=graph.value(hole()), grow_mask_by=0)
        return graph.image(model, clip, text, latent=latent)

    kept_outside_the_hole(*lab.compare(graph))


@pytest.mark.compatibility(INPAINT, "InpaintModelConditioning", note="also on an inpainting model")
@pytest.mark.parametrize("inpainting", [False, True], ids=["any model", "inpainting model"])
def test_inpaint_model_conditioning(lab: Lab, vae: Any, inpaint: Any, inpainting: bool) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        start = graph.value(inpaint) if inpainting else graph.model
        model, clip = apply(start, graph.clip)
        given = graph(
            "InpaintModelConditioning",
            positive=graph.text(clip, text),
            negative=graph.text(clip, "blurry"),
            vae=graph.value(vae),
            pixels=graph.value(photo()),
            mask=graph.value(hole()),
        )
        return graph.sample(model, given[0], given[1], latent=given[2])

    kept_outside_the_hole(*lab.compare(graph))


@pytest.mark.compatibility(INPAINT, "SetLatentNoiseMask, and DifferentialDiffusion with it")
@pytest.mark.parametrize("differential", [False, True])
def test_a_noise_mask(lab: Lab, pictures: dict[Any, Any], vae: Any, differential: bool) -> None:
    ramp = torch.linspace(0, 1, PIXELS).expand(1, PIXELS, PIXELS)

    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        model, clip = apply(graph.model, graph.clip)
        if differential:
            model = graph("DifferentialDiffusion", model=model)
        latent = encoded(vae)(graph)
        latent = graph("SetLatentNoiseMask", samples=latent, mask=graph.value(ramp))
        return graph.image(model, clip, text, latent=latent, steps=4)

    _, plain = lab.compare(graph)
    pictures["noise mask", differential] = plain
    if differential and ("noise mask", False) in pictures:
        assert differs(plain, pictures["noise mask", False])


def kept_outside_the_hole(acting: torch.Tensor, plain: torch.Tensor) -> None:
    half = plain.shape[-1] // 2
    assert torch.equal(acting[..., half + 1 :], plain[..., half + 1 :])
    assert differs(acting[..., :half], plain[..., :half])


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A MODEL with the further inputs of an inpainting model."""
    with torch.inference_mode(False), torch.no_grad():
        return build("sd15", SmallInpaint, tmp_path_factory.mktemp("inpaint")).model
