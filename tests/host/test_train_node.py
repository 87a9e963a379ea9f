"""Train Nested Encoder in whole graphs, through the host's own executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import pytest
import torch

from .conftest import pack, running
from .sink import sink

STEPS = 4


@pytest.fixture
def submit(host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Runs a graph; returns what reached the sink, and the executor."""
    results: list[Any] = []

    kinds = {"encoder": "NESTED_ENCODER", "loss_map": "LOSS_MAP", "latent": "LATENT"}
    Sink = sink(results.append, kinds, optional=True)
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSink", Sink)
    yield from running(results)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def training(**changes: Any) -> dict[str, Any]:
    """The miniature, two grey pictures, and a few steps on them."""
    wanted = {
        "model": ["base", 0],
        "clip": ["base", 1],
        "vae": ["base", 2],
        "clip_vision": ["base", 3],
        "images": ["images", 0],
        "captions": "a <subject> on a beach\na person in a city",
        "class_word": "person",
        "steps": STEPS,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "tokens": 4,
        "width": 64,
        "depth": 1,
        "token_weight": 4.0,
        "seed": 3,
        "gradient_checkpointing": False,
        **changes,
    }
    return {
        "base": node("NestedAttentionLoadMiniature"),
        "images": node("EmptyImage", width=128, height=128, batch_size=2, color=8421504),
        "train": node("NestedAttentionTrainEncoder", **wanted),
        "sink": node("TestSink", encoder=["train", 0], loss_map=["train", 1]),
    }


def failure(executor: Any) -> str:
    errors = [data for event, data in executor.status_messages if event == "execution_error"]
    return errors[-1]["exception_message"] if errors else ""


def test_it_trains_and_its_encoder_works(submit):
    graph = training()
    graph |= {
        "one": node("EmptyImage", width=128, height=128, batch_size=1, color=4210752),
        "subject": node(
            "NestedAttentionEncodeSubject",
            encoder=["train", 0],
            clip_vision=["base", 3],
            image=["one", 0],
            name="anna",
        ),
        "apply": node(
            "NestedAttentionApply",
            model=["base", 0],
            clip=["base", 1],
            subject=["subject", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ),
        "prompt": node("CLIPTextEncode", clip=["apply", 1], text="a <anna> on a beach"),
        "empty": node("CLIPTextEncode", clip=["apply", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sample": node(
            "KSampler",
            model=["apply", 0],
            seed=1,
            steps=2,
            cfg=2.0,
            sampler_name="euler",
            scheduler="simple",
            positive=["prompt", 0],
            negative=["empty", 0],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
    }
    graph["sink"]["inputs"]["latent"] = ["sample", 0]
    found, executor = submit(graph)
    assert failure(executor) == ""
    assert len(found["loss_map"]["loss"]) == STEPS
    assert all(loss == loss and loss > 0 for loss in found["loss_map"]["loss"])
    info = found["encoder"].info
    assert (info.base_family, info.class_word, info.steps) == ("miniature", "person", STEPS)
    assert info.config.tokens == 4 and info.token_weight == 4.0
    assert bool(torch.isfinite(found["latent"]["samples"]).all())
    again, _ = submit(training(seed=4))
    first = found["encoder"].patcher.model.state_dict()
    second = again["encoder"].patcher.model.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_checkpointing_gives_the_same_losses_and_is_taken_off(submit):
    plain, _ = submit(training())
    saved, _ = submit(training(gradient_checkpointing=True))
    assert saved["loss_map"]["loss"] == pytest.approx(plain["loss_map"]["loss"], rel=1e-5)


def test_it_goes_on_from_an_encoder_and_saves(submit, host):
    import folder_paths

    graph = training(save_as="trained in a test")
    graph["more"] = node("NestedAttentionTrainEncoder", **graph["train"]["inputs"])
    graph["more"]["inputs"] |= {"encoder": ["train", 0], "steps": 1}
    graph["sink"]["inputs"] = {"encoder": ["more", 0], "loss_map": ["more", 1]}
    folder = Path(folder_paths.get_folder_paths("nested_attention")[0])
    # The second of that name writes over nothing.
    paths = [folder / f"trained in a test{number}.safetensors" for number in ("", "_2")]
    try:
        found, executor = submit(graph)
        assert failure(executor) == ""
        assert len(found["loss_map"]["loss"]) == 1
        for path in paths:
            written = pack("nodes.host.memory").load(path, path.name)
            assert written.info.config == found["encoder"].info.config
        assert paths[0].read_bytes() != paths[1].read_bytes()
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def test_the_interrupt_button_stops_it(submit):
    seen: list[int] = []

    def hook(value, total, *rest, **more):
        if total == 1000:
            seen.append(value)
            if value == 2:
                comfy.model_management.interrupt_current_processing(True)

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        found, executor = submit(training(steps=1000))
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)
    assert found is None
    assert seen[-1] == 2
    assert any(event == "execution_interrupted" for event, _ in executor.status_messages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": "a\nb\nc"}, "There are 2 pictures and 3 captions"),
        ({"captions": "a beach"}, "write <subject> where the subject is"),
        ({"subjects": "anna\nbert\ncleo"}, "There are 2 pictures and 3 subjects"),
        ({"class_word": " "}, "The class word is empty"),
        ({"save_as": "../x"}, "is no name for a file"),
    ],
)
def test_mistakes_are_told_in_a_sentence(submit, changes, message):
    found, executor = submit(training(steps=1, **changes))
    assert found is None
    assert message in failure(executor)
