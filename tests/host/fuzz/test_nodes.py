"""Every node, with whatever sockets and widgets may bring, in the host's own executor."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ..conftest import pack
from . import values
from .bench import Bench, Ending, node
from .cases import cases
from .graphs import (
    BASE,
    ENCODER,
    LAYERS,
    VISION,
    applied,
    everything,
    sampled,
    sink,
)

pytestmark = pytest.mark.reliability


def check_latent(ending: Ending) -> None:
    if ending.how == "result":
        samples = ending.value["samples"]
        assert samples.shape == (1, 4, 8, 8) and bool(torch.isfinite(samples).all())


@cases(30)
@given(data=st.data())
def test_pictures_and_crop_masks(bench: Bench, data: st.DataObject) -> None:
    image = data.draw(values.images(), "image")
    mask = data.draw(st.one_of(st.none(), values.masks(image)), "mask")
    inputs = {"name": data.draw(values.NAMES, "name"), "image": ["image", 0]}
    graph = {**BASE, "image": bench.given("IMAGE", image)}
    if mask is not None:
        graph["mask"] = bench.given("MASK", mask)
        inputs["crop_mask"] = ["mask", 0]
    if data.draw(st.booleans(), "framing"):
        inputs["framing"] = data.draw(st.sampled_from(["pad", "crop", "", "stretch", 5, None, {}]))
    if data.draw(st.booleans(), "join"):
        joined = bench.world.subject(seed=5)
        several = pack("nested_attn_core.subject").Subjects.of(joined, bench.world.subject("rex"))
        graph["more"] = bench.given("NESTED_SUBJECT", data.draw(st.sampled_from([joined, several])))
        inputs["join"] = ["more", 0]
    graph["subject"] = node(
        "NestedAttentionEncodeSubject", encoder=ENCODER, clip_vision=VISION, **inputs
    )
    sampling = data.draw(st.booleans(), "sampling")
    graph |= {**applied("subject"), **sampled()} if sampling else sink("subject")
    ending = bench.run(graph)
    if sampling:
        check_latent(ending)
    elif ending.how == "result":
        assert bool(torch.isfinite(ending.value.tokens).all())


@cases(30)
@given(data=st.data())
def test_settings_and_masks(bench: Bench, data: st.DataObject) -> None:
    def widgets(kinds: dict[str, tuple[float, float]]) -> dict[str, Any]:
        return {
            name: data.draw(values.numbers(*limits), name)
            if data.draw(st.integers(0, 2)) == 0
            else default
            for name, limits in kinds.items()
            for default in [0.0 if name == "start_percent" else 1.0]
        }

    share, weight = (0.0, 1.0), (0.05, 20.0)
    shared = {"strength": (0.0, 2.0), "start_percent": share, "end_percent": share}
    graph = {**BASE, "one": bench.given("NESTED_SUBJECT", bench.world.subject())}
    own = widgets({**shared, **dict.fromkeys(LAYERS, (0.0, 2.0)), "token_weight": weight})
    every = widgets({**shared, "norm_factor": (0.0, 10.0), "token_weight": weight})
    every["norm"] = data.draw(st.sampled_from(["as trained", "text", "none", "", "x", None, 7, {}]))
    for inputs, name in ((own, "own mask"), (every, "mask")):
        if data.draw(st.integers(0, 2), name) == 0:
            graph[name] = bench.given("MASK", data.draw(values.masks(), name))
            inputs["mask"] = [name, 0]
    graph["set"] = node("NestedAttentionSubjectSettings", subject=["one", 0], **own)
    check_latent(bench.run({**graph, **applied("set", **every), **sampled()}))


@cases(45)
@given(
    text=values.PROMPTS,
    encode=st.sampled_from(["NestedAttentionPrompt", "CLIPTextEncode"]),
    names=st.lists(
        st.sampled_from(["anna", "rex", "名前", "a-1", "x" * 60]), max_size=3, unique=True
    ),
    word=st.sampled_from(["person", "person", "old man", "ohwx", "a, b", "(x:1.4)", "\U0001f600"]),
)
def test_prompts(bench: Bench, text: str, encode: str, names: list[str], word: str) -> None:
    subjects = pack("nested_attn_core.subject").Subjects.of(
        *(bench.world.subject(name, seed=n, class_word=word) for n, name in enumerate(names))
    )
    graph = {**BASE, "all": bench.given("NESTED_SUBJECT", subjects)}
    check_latent(bench.run({**graph, **applied("all"), **sampled(text, encode)}))


@cases(10)
@given(data=st.data())
def test_combining(bench: Bench, data: st.DataObject) -> None:
    subjects = pack("nested_attn_core.subject").Subjects
    graph, inputs = dict(BASE), {}
    for slot in range(1, 5):
        if data.draw(st.integers(0, 3), "slot") == 0:
            continue
        found = data.draw(st.lists(st.sampled_from(["anna", "rex", "Tom", "tom", "x"]), max_size=3))
        parts = [bench.world.subject(name, seed=slot) for name in found]
        try:
            value = parts[0] if len(parts) == 1 else subjects.of(*parts)
        except ValueError:
            continue
        graph[str(slot)] = bench.given("NESTED_SUBJECT", value)
        inputs[f"subject_{slot}"] = [str(slot), 0]
    graph["both"] = node("NestedAttentionCombineSubjects", **inputs)
    check_latent(bench.run({**graph, **applied("both"), **sampled("a <anna> and a <rex>")}))


@cases(12)
@given(
    image=values.images(),
    steps=st.sampled_from(["all", "all", "early", "middle", "late", "", None, 3]),
    layers=st.sampled_from(["all", "all", "coarse", "middle", "fine", "x", {}]),
    text=st.sampled_from(["a <anna>", "a <anna>", "a cat"]),
)
def test_attention_maps(bench: Bench, image: Any, steps: Any, layers: Any, text: str) -> None:
    graph = {
        **BASE,
        "one": bench.given("NESTED_SUBJECT", bench.world.subject()),
        "image": bench.given("IMAGE", image),
        **applied("one"),
        "watch": node("NestedAttentionWatch", model=["apply", 0]),
        **sampled(text, model="watch"),
        "late": node("FuzzAfter", image=["image", 0], latent=["sample", 0]),
        "maps": node(
            "NestedAttentionMaps", recorder=["watch", 1], image=["late", 0], steps=steps,
            layers=layers,
        ),
        **sink("maps", 2),
    }  # fmt: skip
    ending = bench.run(graph)
    if ending.how == "result":
        assert ending.value.ndim == 4 and bool(torch.isfinite(ending.value).all())


@cases(8)
@given(data=st.data())
def test_training(bench: Bench, data: st.DataObject) -> None:
    sometimes = st.integers(0, 3)
    wanted: dict[str, Any] = {
        "captions": "a photo of <subject>", "class_word": "person", "steps": 1, "batch_size": 1,
        "learning_rate": 1e-3, "tokens": 4, "width": 64, "depth": 1, "token_weight": 1.0,
        "seed": 3, "gradient_checkpointing": False, "subjects": "", "save_as": "",
    }  # fmt: skip
    kinds: dict[str, Any] = {
        "captions": values.PROMPTS,
        "class_word": values.NAMES,
        "steps": st.sampled_from([0, 1, 2, -1, 10**7, "x", None]),
        "batch_size": st.sampled_from([0, 1, 3, 1025, 1.5]),
        "learning_rate": values.numbers(1e-7, 1.0),
        "tokens": st.sampled_from([0, 1, 4, 4097]),
        "width": st.sampled_from([0, 64, 65, 100, 128, 5000]),
        "depth": st.sampled_from([0, 1, 2, 33]),
        "token_weight": values.numbers(0.05, 64.0),
        "seed": st.sampled_from([0, -1, 2**64 - 1, 2**64]),
        "subjects": st.sampled_from(["", "a", "a\nb", "a\nb\nc", " \n", "\0", "<x>\n<x>"]),
        "save_as": values.FILENAMES,
    }
    for name, kind in kinds.items():
        if data.draw(sometimes, name) == 0:
            wanted[name] = data.draw(kind, name)
    image = filled_or_any(data)
    graph = {"small": node("NestedAttentionLoadMiniature"), "image": bench.given("IMAGE", image)}
    for slot, name in enumerate(("model", "clip", "vae", "clip_vision")):
        wanted[name] = ["small", slot]
    if data.draw(sometimes, "masks") == 0:
        graph["mask"] = bench.given("MASK", data.draw(values.masks(image), "masks"))
        wanted["masks"] = ["mask", 0]
    graph["train"] = node("NestedAttentionTrainEncoder", images=["image", 0], **wanted)
    bench.run({**graph, **sink("train", 1)})


def filled_or_any(data: st.DataObject) -> Any:
    good = values.filled((2, 64, 64, 3), "random", torch.float32)
    return data.draw(st.one_of(st.just(good), values.images()), "images")


@cases(40)
@given(data=st.data())
def test_any_widget_and_any_link(bench: Bench, data: st.DataObject) -> None:
    graph: dict[str, Any] = copy.deepcopy(everything())
    ours = sorted(key for key in graph if graph[key]["class_type"].startswith("NestedAttention"))
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        key = data.draw(st.sampled_from(ours), "node")
        inputs = graph[key]["inputs"]
        if not inputs:
            continue
        name = data.draw(st.sampled_from(sorted(inputs)), "input")
        act = data.draw(st.sampled_from(["value", "value", "remove", "link", "add"]), "act")
        if act == "remove":
            del inputs[name]
        elif act == "link":
            inputs[name] = ["base", data.draw(st.integers(0, 4), "slot")]
        else:
            where = name if act == "value" else data.draw(st.text(max_size=8), "new input")
            value = data.draw(st.one_of(values.JSON, values.NUMBERS, values.NAMES), "value")
            # A list is a link, and what the host says of broken links is its own affair.
            inputs[where] = {"a": 1} if isinstance(value, list) else value
    bench.run(graph)


def test_what_all_this_began_with_is_in_order(bench: Bench) -> None:
    ending = bench.run(everything())
    assert ending.how == "result", ending
    good = values.filled((1, 48, 40, 3), "random", torch.float32)
    graph = {**BASE, "image": bench.given("IMAGE", good)}
    graph["subject"] = node(
        "NestedAttentionEncodeSubject", encoder=ENCODER, clip_vision=VISION, image=["image", 0],
        name="anna",
    )  # fmt: skip
    ending = bench.run({**graph, **applied("subject"), **sampled()})
    check_latent(ending)
    assert ending.how == "result"
