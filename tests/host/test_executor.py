"""Whole graphs through the host's own executor: what it caches, what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import World, differs, pack, running, write_encoder
from .sink import sink

FILE = "executor test.safetensors"


@pytest.fixture
def submit(sd15: World, host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Runs a graph; returns the latent and the executor, whose caches last for the test."""
    import folder_paths

    class Source:
        RETURN_TYPES = ("MODEL", "CLIP", "CLIP_VISION")
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> Any:
            return sd15.model, sd15.clip, sd15.vision

    Sink = sink(lambda given: results.append(given["latent"]["samples"]), {"latent": "LATENT"})
    results: list[torch.Tensor] = []
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSource", Source)
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSink", Sink)
    path = Path(folder_paths.get_folder_paths("nested_attention")[-1]) / FILE
    write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15")
    yield from running(results)
    path.unlink()


def graph(text: str = "a photo of <anna>", strength: float = 1.0, name: str = "anna") -> Any:
    """Source, encoder, subject, Apply, prompts, sampler."""
    steps = {
        "source": ("TestSource", {}),
        "file": ("NestedAttentionLoadEncoder", {"encoder_name": FILE}),
        "image": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 255}),
        "subject": (
            "NestedAttentionEncodeSubject",
            {
                "encoder": ["file", 0],
                "clip_vision": ["source", 2],
                "image": ["image", 0],
                "name": name,
            },
        ),
        "apply": (
            "NestedAttentionApply",
            {
                "model": ["source", 0],
                "clip": ["source", 1],
                "subject": ["subject", 0],
                "strength": strength,
                "start_percent": 0.0,
                "end_percent": 1.0,
            },
        ),
        "positive": ("NestedAttentionPrompt", {"clip": ["apply", 1], "text": text}),
        "negative": ("CLIPTextEncode", {"clip": ["apply", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sampler": (
            "KSampler",
            {
                "model": ["apply", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        ),
        "sink": ("TestSink", {"latent": ["sampler", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in steps.items()}


def cached(executor: Any) -> set[str]:
    """Nodes whose results the last run took from the cache."""
    return {
        node
        for event, data in executor.status_messages
        if event == "execution_cached"
        for node in data["nodes"]
    }


def test_moving_the_strength_encodes_no_image_again(
    submit: Callable[..., Any], sd15: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = pack("nodes.subject")
    encoded: list[int] = []
    original = subject.image_features
    monkeypatch.setattr(subject, "image_features", lambda *a: (encoded.append(1), original(*a))[1])
    full, executor = submit(graph())
    assert encoded == [1] and not cached(executor)
    half, _ = submit(graph(strength=0.5))
    assert encoded == [1]
    assert {"source", "file", "image", "subject"} <= cached(executor)
    assert "apply" not in cached(executor)
    off, _ = submit(graph(strength=0.0))
    assert encoded == [1]
    assert differs(full, half) and differs(half, off)
    plain = sd15.sample(sd15.encode("a photo of person"), sd15.encode(""))
    assert torch.equal(off, plain)
    again, _ = submit(graph())
    assert torch.equal(again, full)


def test_a_changed_encoder_file_is_read_again(
    submit: Callable[..., Any], sd15: World, host: Any
) -> None:
    before, executor = submit(graph())
    same, _ = submit(graph())
    assert "file" in cached(executor) and same is None
    path = pack("nodes.host.files").encoder_path(FILE)
    write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15", seed=8)
    after, _ = submit(graph())
    assert "file" not in cached(executor)
    assert differs(after, before)


def test_the_binding_report_reaches_the_page(submit: Callable[..., Any]) -> None:
    _, executor = submit(graph("a (<anna>:1.2)"))
    (report,) = executor.history_result["outputs"]["positive"]["text"]
    assert report == '- anna: reads as "person", row 2 (weight 1.2) of the context'


@pytest.mark.parametrize(
    ("options", "node", "says"),
    [
        ({"text": "a photo of <bob>"}, "positive", "<bob>"),
        ({"text": " "}, "positive", "The prompt is empty"),
        ({"name": "an na"}, "subject", "cannot be a subject's name"),
    ],
)
def test_messages_reach_the_page(
    submit: Callable[..., Any], options: dict[str, Any], node: str, says: str
) -> None:
    latent, executor = submit(graph(**options))
    assert latent is None and not executor.success
    (error,) = [data for event, data in executor.status_messages if event == "execution_error"]
    assert error["node_id"] == node and says in error["exception_message"]
    better, _ = submit(graph())
    assert better is not None and executor.success
