"""What other packs do to cross-attention, written anew in the manner of each family."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from ..conftest import differs, pack
from .conftest import PLAIN, PROMPT, Apply, Graph, Lab, Node

PACKS = "Other packs"
REGIONS = "Attention couple"


class ImageTerm:
    """A pack of the IPAdapter family: attention to tokens of its own, added to the text's."""

    def __init__(self, width: int):
        generator = torch.Generator().manual_seed(width)
        self.key, self.value = torch.randn(2, 1, 4, width, generator=generator)

    def __call__(self, out: Any, q: Any, k: Any, v: Any, extra: Any, **_: Any) -> torch.Tensor:
        # Only for positive rows, as these packs tell them apart.
        each = len(q) // len(extra["cond_or_uncond"])
        share = torch.tensor([1.0 - number for number in extra["cond_or_uncond"]])
        key, value = (tensor.expand(len(q), -1, -1) for tensor in (self.key, self.value))
        term = optimized_attention(q, key, value, extra["n_heads"])
        return term * share.repeat_interleave(each)[:, None, None]


class ReplacePatch:
    """The patch object of that family: terms on top of plain attention; later ones by `add`."""

    def __init__(self, term: Callable[..., Any], **settings: Any):
        self.terms = [(term, settings)]

    def add(self, term: Callable[..., Any], **settings: Any) -> None:
        self.terms.append((term, settings))

    def __call__(self, q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        out = optimized_attention(q, k, v, extra["n_heads"])
        for term, settings in self.terms:
            if settings["sigma_end"] <= float(extra["sigmas"][0]) <= settings["sigma_start"]:
                out = out + term(out, q, k, v, extra, **settings)
        return out


def image_adapter(model: Any) -> Any:
    """A clone with a term on each site: into the object that is there, or in an object of its
    own, as the family does."""
    clone = model.clone()
    settings = {"sigma_start": 1e9, "sigma_end": 0.0}
    for site in pack("nodes.host.sites").discover_sites(model.model.diffusion_model):
        term = ImageTerm(site.width)
        replaced = clone.model_options["transformer_options"].get("patches_replace", {})
        present = replaced.get("attn2", {}).get(site.key)
        if present is not None:
            present.add(term, **settings)
        else:
            clone.set_model_attn2_replace(ReplacePatch(term, **settings), *site.key)
    return clone


def own_attention(model: Any) -> Any:
    """A clone whose sites have a replacement that knows nothing of others and has no `add`."""
    clone = model.clone()

    def attend(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        return optimized_attention(q * 1.3, k, v, extra["n_heads"]) * 0.8

    for site in pack("nodes.host.sites").discover_sites(model.model.diffusion_model):
        clone.set_model_attn2_replace(attend, *site.key)
    return clone


def chunked(model: Any) -> Any:
    """A clone with a wrapper around the model call that makes it one chunk at a time."""
    clone = model.clone()

    def call(apply_model: Any, args: Any) -> torch.Tensor:
        x, t, c = args["input"], args["timestep"], args["c"]
        numbers = args["cond_or_uncond"]
        each, parts = len(x) // len(numbers), []
        for index, number in enumerate(numbers):
            rows = slice(index * each, (index + 1) * each)
            part = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in c.items()}
            part["transformer_options"] = {**c["transformer_options"], "cond_or_uncond": [number]}
            parts.append(apply_model(x[rows], t[rows], **part))
        return torch.cat(parts)

    clone.set_model_unet_function_wrapper(call)
    return clone


def tiled(model: Any) -> Any:
    """A clone that calls the model on overlapping tiles of 12 x 12, as tiling packs do."""
    clone = model.clone()

    def call(apply_model: Any, args: Any) -> torch.Tensor:
        x, t, c = args["input"], args["timestep"], args["c"]
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for top in (0, 4):
            for left in (0, 4):
                tile = (..., slice(top, top + 12), slice(left, left + 12))
                total[tile] += apply_model(x[tile], t, **c)
                count[tile] += 1
        return total / count

    clone.set_model_unet_function_wrapper(call)
    return clone


def in_order(pack_of: Callable[[Any], Any], order: str) -> Callable[..., Node]:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        if order == "before":
            model, clip = apply(graph.value(pack_of(graph.world.model)), graph.clip)
        else:
            model, clip = apply(graph.model, graph.clip)
            model = graph("TestPatch", model=model, patch=graph.value(pack_of))
        return graph.image(model, clip, text)

    return graph


@pytest.mark.compatibility(
    PACKS,
    "a term added to attention, before and after ours (IPAdapter, InstantID, PuLID)",
    note="after ours, the other pack's term is taken up by our patch (`add`)",
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_an_image_adapter(lab: Lab, pictures: dict[Any, Any], order: str) -> None:
    # Our patch calls the terms that were added to it, in rows of the positive too.
    acting, pictures["adapter"] = lab.compare(
        in_order(image_adapter, order), pictures.get("adapter"), lab.bare, rows=None
    )
    assert not differs(acting, pictures.setdefault("adapter, acting", acting))


@pytest.mark.compatibility(PACKS, "a replacement of attention (attn2), before ours")
def test_a_replacement_before_ours(lab: Lab) -> None:
    lab.compare(in_order(own_attention, "before"), without=lab.bare)


@pytest.mark.compatibility(
    PACKS,
    "a replacement of attention (attn2) that overwrites ours",
    "cannot work: the log says which sites are lost",
)
def test_a_replacement_that_overwrites_ours(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    build = in_order(own_attention, "after")
    plain = lab.run(build)
    with caplog.at_level(logging.WARNING, "nested_attention"):
        named = lab.run(build, lab.on, PROMPT)
    assert torch.equal(named, plain)
    assert "reached 0 of 10 cross-attention sites; another extension holds" in caplog.text
    assert "apply the subjects after it" in caplog.text


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(
            chunked,
            id="one chunk at a time",
            marks=pytest.mark.compatibility(PACKS, "a wrapper that splits the model call by rows"),
        ),
        pytest.param(
            tiled,
            id="tiles",
            marks=pytest.mark.compatibility(
                PACKS, "a wrapper that calls the model on tiles (tiled diffusion)"
            ),
        ),
    ],
)
def test_a_wrapper_of_the_model_call(
    lab: Lab, pictures: dict[Any, Any], wrapper: Callable[[Any], Any], order: str
) -> None:
    without = lab.bare if wrapper is tiled else None
    acting, pictures[wrapper] = lab.compare(
        in_order(wrapper, order), pictures.get(wrapper), without
    )
    assert not differs(acting, pictures.setdefault((wrapper, "acting"), acting))
    if wrapper is chunked:
        plainest = lab.run(in_order(lambda model: model, "before"), lab.on, PROMPT)
        assert not differs(acting, plainest)


def couple(region: torch.Tensor) -> Callable[[Any], Any]:
    """Attention couple: positive rows run once for each region's context, and are put together
    by place after the attention. The left half of the image is the sampler's own positive."""

    def spread(n: Any, context: Any, value: Any, extra: Any) -> tuple[Any, Any, Any]:
        queries, contexts = [], []
        each = len(n) // len(extra["cond_or_uncond"])
        for index, number in enumerate(extra["cond_or_uncond"]):
            rows = slice(index * each, (index + 1) * each)
            queries.append(n[rows])
            contexts.append(context[rows])
            if number == 0:
                queries.append(n[rows])
                contexts.append(region.expand(each, -1, -1))
        return torch.cat(queries), torch.cat(contexts), torch.cat(contexts)

    def gather(out: Any, extra: Any) -> torch.Tensor:
        height, width = extra["activations_shape"][-2:]
        left = (torch.arange(width) < width / 2).repeat(height)[None, :, None]
        numbers = extra["cond_or_uncond"]
        each = len(out) // (len(numbers) + numbers.count(0))
        parts, start = [], 0
        for number in numbers:
            here, start = out[start : start + each], start + each
            if number == 0:
                here, start = torch.where(left, here, out[start : start + each]), start + each
            parts.append(here)
        return torch.cat(parts)

    def patched(model: Any) -> Any:
        clone = model.clone()
        clone.set_model_attn2_patch(spread)
        clone.set_model_attn2_output_patch(gather)
        return clone

    return patched


@pytest.mark.compatibility(
    PACKS,
    "attention couple",
    "cannot work: subjects are left out, and the log says so",
    note="such a pack keeps its regions' prompts to itself; use the host's own areas and masks",
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_attention_couple(lab: Lab, caplog: pytest.LogCaptureFixture, order: str) -> None:
    region = lab.world.encode("a dog in a forest")[0][0]
    build = in_order(couple(region), order)
    plain = lab.run(build)
    assert differs(plain, lab.bare)
    assert torch.equal(lab.run(build, lab.off, PROMPT), plain)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nested_attention"):
            assert torch.equal(lab.run(build, lab.on, PROMPT), plain)
        (record,) = caplog.records
        assert record.getMessage() == (
            "Another extension runs attention on 3 rows where the model call has 2, "
            "so that subjects cannot be told apart there and are left out."
        )


def neg_pip_text(clip: Any) -> Any:
    """NegPiP's half on the text: for each token a row for keys and, with the sign of its weight,
    one for values, in turn."""
    clone = clip.clone()
    encode = clone.patcher.get_model_object("clip_l.encode_token_weights")

    def encode_both(tokens: Any) -> tuple[Any, ...]:
        sizes = [[(token, abs(weight)) for token, weight, *_ in chunk] for chunk in tokens]
        context, *rest = encode(sizes)
        sign = torch.tensor([1.0 if entry[1] >= 0 else -1.0 for c in tokens for entry in c])
        both = torch.stack([context, context * sign[None, :, None]], dim=2).flatten(1, 2)
        return (both, *rest)

    clone.patcher.add_object_patch("clip_l.encode_token_weights", encode_both)
    return clone


def neg_pip(model: Any) -> Any:
    """NegPiP's half on the model: rows in turn are keys and values."""
    clone = model.clone()
    clone.set_model_attn2_patch(
        lambda n, context, value, extra: (n, context[:, ::2], value[:, 1::2])
    )
    return clone


@pytest.mark.compatibility(PACKS, "NegPiP, before and after ours, also with prompts of two lengths")
@pytest.mark.parametrize("negative", ["blurry", "many small things, " * 30], ids=["short", "long"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_neg_pip(lab: Lab, pictures: dict[Any, Any], order: str, negative: str) -> None:
    def graph(graph: Graph, apply: Apply, text: str) -> Node:
        patch = {"patch": graph.value(neg_pip)}
        if order == "before":
            clip = graph.value(neg_pip_text(graph.world.clip))
            model, clip = apply(graph("TestPatch", model=graph.model, **patch), clip)
        else:
            model, clip = apply(graph.model, graph.clip)
            model = graph("TestPatch", model=model, **patch)
            clip = graph("TestPatchClip", clip=clip, patch=graph.value(neg_pip_text))
        return graph.sample(model, graph.text(clip, text), graph.text(clip, negative))

    # A negative weight, so that keys and values differ.
    texts: Any = {"text": f"{PROMPT}, (small:-1.0)", "plain_text": f"{PLAIN}, (small:-1.0)"}
    acting, pictures[negative, "pip"] = lab.compare(
        graph, pictures.get((negative, "pip")), lab.bare, **texts
    )
    assert not differs(acting, pictures.setdefault((negative, "pip acting"), acting))
    # The negative is only longer, as two copies of a context are: that must not move the subject.
    alone = pictures.setdefault("pip, the subject's part", acting - pictures[negative, "pip"])
    assert (acting - pictures[negative, "pip"] - alone).std() < 0.5 * alone.std()
