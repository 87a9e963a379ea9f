"""Graphs with and without the pack, run by the host's own executor on a small random model.

A test hands over a function that puts a graph together. It is called with an `apply` that does
nothing, with one whose subjects are switched off, and with one whose subject acts.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.sd
import pytest
import torch

from ..conftest import TinySD15, World, build, differs, pack, randomise, running
from ..sink import sink

PROMPT = "a photo of <anna> on a beach"
PLAIN = "a photo of person on a beach"
PIXELS = 128  # sides of an image; a latent's are an eighth
SAMPLER = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}


class Small(TinySD15):
    """SD1.5 with one residual block a level: 10 cross-attention sites."""

    unet_config = {
        **TinySD15.unet_config,
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [1, 1, 1],
        "transformer_depth_output": [1] * 6,
        "transformer_depth_middle": 1,
    }


class SmallInpaint(Small):
    """The same with the further input channels of an inpainting model."""

    unet_config = {**Small.unet_config, "in_channels": 9}


class AnyType(str):
    """The type of a socket that fits all others."""

    def __ne__(self, other: object) -> bool:
        return False


@dataclass(frozen=True)
class Node:
    """A node of a graph that is being put together; an index is one of its outputs."""

    key: str

    def __getitem__(self, output: int) -> list[Any]:
        return [self.key, output]


class Graph:
    """A graph: called with a node's id and inputs, it adds the node.

    Inputs are values, nodes (their first output) or outputs of nodes; what is left out has the
    node's own default. Any other object, such as a model, comes in by `value`.
    """

    def __init__(self, host: ModuleType, world: World):
        self.nodes: dict[str, Any] = {}
        self.held: dict[str, Any] = {}
        self.world = world
        self._host = host
        self.model = self.value(world.model)
        self.clip = self.value(world.clip)

    def __call__(self, kind: str, **inputs: Any) -> Node:
        key = f"{kind} {next(_numbers)}"
        for name, value in inputs.items():
            inputs[name] = value[0] if isinstance(value, Node) else value
        defaults = _defaults(node_class(self._host, kind))
        self.nodes[key] = {"class_type": kind, "inputs": {**defaults, **inputs}}
        return Node(key)

    def value(self, thing: Any) -> Node:
        key = str(next(_numbers))
        self.held[key] = thing
        return self("TestValue", key=key)

    def text(self, clip: Any, text: str) -> Node:
        return self("CLIPTextEncode", clip=clip, text=text)

    def apply(self, subject: Any, model: Any, clip: Any, **settings: Any) -> tuple[Any, Any]:
        """(MODEL, CLIP) of our node."""
        node = self(
            "NestedAttentionApply", model=model, clip=clip, subject=self.value(subject), **settings
        )
        return node[0], node[1]

    def latent(self, batch: int = 1) -> Node:
        return self("EmptyLatentImage", width=PIXELS, height=PIXELS, batch_size=batch)

    def sample(
        self, model: Any, positive: Any, negative: Any, latent: Any = None, **settings: Any
    ) -> Node:
        return self(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent or self.latent(),
            **{**SAMPLER, **settings},
        )

    def image(self, model: Any, clip: Any, text: str, **settings: Any) -> Node:
        """The plainest graph: two prompts and a sampler."""
        return self.sample(model, self.text(clip, text), self.text(clip, "blurry"), **settings)


_numbers = itertools.count()
Apply = Callable[[Any, Any], tuple[Any, Any]]
Build = Callable[[Graph, Apply, str], Node]


@functools.cache
def node_class(host: ModuleType, kind: str) -> Any:
    """A node class of the host; its extra nodes are loaded when the first of a file is asked for,
    as main.py loads them."""
    known = host.NODE_CLASS_MAPPINGS
    for path in sorted(Path(host.__file__ or "").with_name("comfy_extras").glob("nodes_*.py")):
        if kind in known:
            break
        text = path.read_text(encoding="utf-8")
        if f'"{kind}"' in text or f"'{kind}'" in text:
            loaded = host.load_custom_node(str(path), module_parent="comfy_extras")
            assert asyncio.run(loaded), f"the host could not load {path.name}"
    return known[kind]


def _defaults(kind: Any) -> dict[str, Any]:
    found = {}
    for name, (accepted, *options) in kind.INPUT_TYPES().get("required", {}).items():
        about = options[0] if options else {}
        choices = accepted if isinstance(accepted, list) else about.get("options")
        if "default" in about:
            found[name] = about["default"]
        elif choices:
            found[name] = choices[0]
    return found


class Lab:
    """Runs graphs with and without subjects, and compares."""

    def __init__(
        self,
        host: ModuleType,
        world: World,
        execute: Callable[..., Any],
        rows: Rows,
        pictures: dict[Any, torch.Tensor],
    ):
        self.world = world
        self.anna = world.subject()
        self.rex = world.subject("rex", seed=5, class_word="dog")
        self._host = host
        self._execute = execute
        self._rows = rows
        self._pictures = pictures

    def run(self, build: Build, apply: Callable[..., Any] | None = None, text: str = PLAIN) -> Any:
        """The latent of a graph; `apply` is called with the graph, a MODEL and a CLIP."""
        graph = Graph(self._host, self.world)

        def applied(model: Any, clip: Any) -> tuple[Any, Any]:
            return (model, clip) if apply is None else apply(graph, model, clip)

        made = build(graph, applied, text)
        graph("TestSink", latent=made)
        latent, executor = self._execute(graph)
        events = [data for event, data in executor.status_messages if event == "execution_error"]
        assert not events, events[0]["exception_message"]
        return latent

    def off(self, graph: Graph, model: Any, clip: Any) -> tuple[Any, Any]:
        """anna at strength 0; and rex, whom no prompt names."""
        return graph.apply(self.rex, *graph.apply(self.anna, model, clip, strength=0.0))

    def on(self, graph: Graph, model: Any, clip: Any) -> tuple[Any, Any]:
        return graph.apply(self.anna, model, clip)

    def compare(
        self,
        build: Build,
        plain: torch.Tensor | None = None,
        without: torch.Tensor | None = None,
        rows: set[int] | None = frozenset({0}),  # type: ignore[assignment]
        text: str = PROMPT,
        plain_text: str = PLAIN,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(image with the subject acting, image of the same graph without the pack).

        Subjects that are switched off give that second image bit for bit; one that acts changes
        it, all numbers finite, and in the pack's sites it changes the rows of the conditionings
        numbered `rows` (None: any) and no others. `without` is what the graph gives without the
        other feature, which must have an effect of its own.
        """
        if plain is None:
            plain = self.run(build, text=plain_text)
        assert plain is not None
        assert torch.isfinite(plain).all()
        assert without is None or differs(plain, without), "the feature itself changes nothing"
        self._rows.clear()
        quiet = self.run(build, self.off, text)
        assert torch.equal(quiet, plain), "a subject that is switched off changed the image"
        assert rows is None or not self._rows.changed
        acting = self.run(build, self.on, text)
        assert torch.isfinite(acting).all()
        assert differs(acting, plain), "the subject changed nothing"
        assert rows is None or self._rows.changed == rows
        return acting, plain

    @property
    def bare(self) -> torch.Tensor:
        """The plainest graph, without the pack."""
        if simple not in self._pictures:
            self._pictures[simple] = self.run(simple)
        return self._pictures[simple]


def simple(graph: Graph, apply: Apply, text: str) -> Node:
    model, clip = apply(graph.model, graph.clip)
    return graph.image(model, clip, text)


class Rows:
    """Which conditionings, by their number in the host's list, the pack's sites changed."""

    def __init__(self) -> None:
        self.changed: set[int] = set()
        self._below: list[torch.Tensor] = []

    def clear(self) -> None:
        self.changed.clear()
        self._below.clear()

    def watch(self, patch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        base, call = patch._base, patch.__call__

        def watched_base(site: Any, *args: Any) -> torch.Tensor:
            self._below.append(base(site, *args))
            return self._below[-1]

        def watched_call(site: Any, query: Any, key: Any, value: Any, extra: Any) -> torch.Tensor:
            out = call(site, query, key, value, extra)
            # One pass over plain attention does not come through _base; what it gives is the same.
            below = self._below.pop() if self._below else base(site, query, key, value, extra)
            other = (out != below).flatten(1).any(1)
            numbers = extra["cond_or_uncond"]
            each = len(other) // len(numbers)
            self.changed.update(
                number for i, number in enumerate(numbers) if other[i * each : (i + 1) * each].any()
            )
            return out

        monkeypatch.setattr(patch, "_base", watched_base)
        monkeypatch.setattr(patch, "__call__", watched_call)


@pytest.fixture(scope="session")
def small(host: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world as small as it can be with three levels."""
    with torch.inference_mode(False), torch.no_grad():
        return build("sd15", Small, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def executor(host: ModuleType) -> Iterator[Callable[[Graph], Any]]:
    """Runs a graph: (what reached its sink, the host's executor)."""
    results: list[Any] = []
    held: dict[str, Any] = {}

    class Value:
        RETURN_TYPES = (AnyType("*"),)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"key": ("STRING",)}}

        def run(self, key: str) -> Any:
            return (held[key],)

    def keep(given: dict[str, Any]) -> None:
        latent = given["latent"]
        results.append(latent["samples"] if isinstance(latent, dict) else latent)

    Sink = sink(keep, {"latent": AnyType("*")})

    class Patch:
        RETURN_TYPES = ("MODEL",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"model": ("MODEL",), "patch": (AnyType("*"),)}}

        def run(self, model: Any, patch: Any) -> Any:
            return (patch(model),)

    class PatchClip(Patch):
        RETURN_TYPES = ("CLIP",)

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"clip": ("CLIP",), "patch": (AnyType("*"),)}}

        def run(self, clip: Any, patch: Any) -> Any:
            return (patch(clip),)

    own = {"TestPatchClip": PatchClip, "TestValue": Value, "TestSink": Sink, "TestPatch": Patch}
    host.NODE_CLASS_MAPPINGS.update(own)
    runs = running(results)
    run = next(runs)

    def execute(graph: Graph) -> Any:
        held.update(graph.held)
        try:
            return run(graph.nodes)
        finally:
            held.clear()

    yield execute
    next(runs, None)
    for name in own:
        del host.NODE_CLASS_MAPPINGS[name]


@pytest.fixture(scope="session")
def pictures() -> dict[Any, torch.Tensor]:
    """Images that several tests compare with."""
    return {}


@pytest.fixture
def lab(
    host: ModuleType,
    small: World,
    executor: Callable[[Graph], Any],
    pictures: dict[Any, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> Lab:
    """On the small world."""
    rows = Rows()
    rows.watch(pack("nodes.host.patch").NestedPatch, monkeypatch)
    return Lab(host, small, executor, rows, pictures)


@pytest.fixture(scope="session")
def vae() -> Any:
    """A tiny random VAE of the host's AutoencoderKL: 4 latent channels, 8 pixels a latent."""
    sizes = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.inference_mode(False), torch.no_grad():
        made: Any = comfy.sd.VAE(
            sd={"decoder.conv_in.weight": torch.zeros(32, 4, 3, 3)},
            config={"params": {"ddconfig": sizes, "embed_dim": 4}},
            dtype=torch.float32,
        )
        randomise(made.first_stage_model, 7)
    return made
