"""One graph after another through the host's validation and executor; what must hold after each.

A run ends in a result, in one of the pack's own sentences, or in the host's refusal of the graph.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..conftest import World, pack
from .guard import GUARD

Graph = dict[str, Any]
OURS = "nested_attn_core.errors.NestedAttentionError"
PATIENCE = 60
LONGEST = 1200


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


@dataclass(frozen=True)
class Ending:
    """How a run ended: "result" with what reached the sink, "message" with the sentence, or
    "refused" with what the host's validation says."""

    how: str
    value: Any = None


@dataclass
class Bench:
    """Runs graphs on a small base that must stay as it is."""

    world: World
    folder: Path
    allowed: tuple[Path, ...]
    results: list[Any] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    endings: Counter[str] = field(default_factory=Counter)
    _keys: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        server = importlib.import_module("server")
        self._execution: Any = importlib.import_module("execution")
        self._loop = asyncio.new_event_loop()
        self._executor = self._execution.PromptExecutor(
            server.PromptServer(self._loop),
            cache_type=self._execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0},
        )
        self._before = self.state()

    def close(self) -> None:
        self._loop.close()

    def given(self, kind: str, value: Any) -> dict[str, Any]:
        """A node whose output of that type is the value."""
        key = f"{kind} {next(self._keys)}"
        self.values[key] = value
        return node(f"Fuzz{kind}", key=key)

    def run(self, graph: Graph) -> Ending:
        """The ending of a run; fails where it is none of the three, or left anything changed."""
        with GUARD.on(), _alarm(PATIENCE):
            ending = self._run(graph)
        self.values.clear()
        assert GUARD.forbidden == [], GUARD.forbidden
        outside = GUARD.outside(self.folder, *self.allowed)
        assert outside == [], outside
        assert self.state() == self._before, "the models upstream have changed"
        self.endings[ending.how] += 1
        return ending

    def _run(self, graph: Graph) -> Ending:
        self.results.clear()
        valid = self._loop.run_until_complete(self._execution.validate_prompt("id", graph, None))
        if not valid[0]:
            return Ending("refused", _refusal(valid))
        with torch.inference_mode():
            self._loop.run_until_complete(self._executor.execute_async(graph, "id", {}, valid[2]))
        errors = [d for e, d in self._executor.status_messages if e == "execution_error"]
        if not errors:
            assert self._executor.success, self._executor.status_messages
            return Ending("result", self.results[-1] if self.results else None)
        (error,) = errors
        assert error["exception_type"].endswith(OURS), "".join(
            [*error["traceback"], error["exception_type"], ": ", error["exception_message"]]
        )
        return Ending("message", sentence(error["exception_message"]))

    def state(self) -> tuple[Any, ...]:
        """Of the models that graphs begin from: weights, patches, and what hangs on them."""
        model, clip = self.world.model, self.world.clip
        weights = pack("nested_attn_core.fingerprint").weights_fingerprint
        modules = (model.model.diffusion_model, clip.cond_stage_model, self.world.vision.model)
        return (
            tuple(weights(module.state_dict()) for module in modules),
            weights(self.world.encoder.patcher.model.state_dict()),
            tuple(_hanging(patcher) for patcher in (model, clip.patcher)),
            type(clip.tokenizer).__name__,
        )


def _hanging(patcher: Any) -> tuple[Any, ...]:
    return (
        sorted(patcher.patches),
        sorted(patcher.object_patches),
        repr(patcher.model_options),
        repr(patcher.wrappers),
        repr(patcher.callbacks),
    )


def sentence(text: str) -> str:
    """Checks a message: one line of a length that a page can show, and no path of this machine."""
    text = text.removesuffix("\n")  # the host's
    assert text.endswith(".") and len(text) <= LONGEST, text[: 2 * LONGEST]
    assert text.isprintable(), ascii(text)
    assert not re.search(r"/(tmp|home|root|Users|work)/\w", text), text
    return text


def _refusal(valid: Any) -> str:
    """What the host's validation says; an exception inside of it is none of its messages."""
    _, error, _, nodes = valid
    said = [found for entry in nodes.values() for found in entry["errors"]] + [error]
    for found in said:
        assert "exception" not in found["type"], found
    return "; ".join(f"{found['message']}: {found['details']}" for found in said)


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """A run that hangs becomes a failure, where the system can interrupt it."""
    usable = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"the run took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def source(kind: str, bench: Bench) -> type:
    """A node class that gives what `Bench.given` was given."""

    class Source:
        RETURN_TYPES = (kind,)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"key": ("STRING",)}}

        def run(self, key: str) -> Any:
            return (bench.values[key],)

    return Source
