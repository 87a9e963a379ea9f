"""What subjects cost in a whole step of a UNet with guidance: time, and memory at its peak.

The UNets are the host's own classes at their full size with random weights, and the miniature. The
host's sampler runs two steps at a time, with and without subjects in turns, and the time between
two steps is taken; so nested keys and values, made once a run, are not in it.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from start_costs import sample
from torch.utils._python_dispatch import TorchDispatchMode

import pack

ROUNDS = {"miniature": 9, "sd15": 2, "sdxl": 2}
LATENT = {"miniature": (16, 16), "sd15": (32, 32), "sdxl": (32, 32)}
# Tokens and subjects; a full-size UNet takes minutes for each on a processor.
FEW = ((64, 1), (1024, 1))
CASES = {"miniature": ((64, 1), (64, 2), (64, 4), (1024, 1)), "sd15": FEW, "sdxl": FEW}


def steps(models: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each model, token count and number of subjects; the host chooses the device."""
    for name in models:
        yield from _steps_of(name)


def _steps_of(name: str) -> Iterator[dict[str, Any]]:
    import torch

    model = _model(name)
    size = LATENT[name]
    context = _context_width(model)
    channels = model.model.latent_format.latent_channels
    generator = torch.Generator().manual_seed(3)
    negative, *_ = (_condition(model, torch.randn(1, 77, context, generator=generator), ()),)
    variants: dict[tuple[int, int], tuple[Any, Any, Any]] = {}
    for tokens, count in CASES[name]:
        subjects = _subjects(model, tokens, count)
        bound = pack.module("nodes.host.binding").bind_model(model, subjects)
        identity = pack.module("nodes.host.text").subject_id
        slots = [(identity(s), 5 + n, 77) for n, s in enumerate(subjects)]
        positive = _condition(model, torch.randn(1, 77, context, generator=generator), slots)
        variants[tokens, count] = bound, positive, subjects
    plain = _condition(model, torch.randn(1, 77, context, generator=generator), ())
    taken: dict[Any, list[float]] = {key: [] for key in ("plain", *variants)}
    for number in range(ROUNDS[name] + 1):
        for key in taken:
            used, positive = (model, plain) if key == "plain" else variants[key][:2]
            spent = _between_steps(used, positive, negative, size, channels)
            if number:
                taken[key].append(spent)
    peaks = {}
    for key in taken:
        used, positive = (model, plain) if key == "plain" else variants[key][:2]
        with LiveBytes() as live:
            sample(used, positive, negative, size, 1, channels=channels)
        peaks[key] = live.peak
    for (tokens, count), (_, _, subjects) in variants.items():
        pairs = zip(taken[tokens, count], taken["plain"], strict=True)
        yield {
            "model": name,
            "latent": list(size),
            "tokens": tokens,
            "subjects": count,
            "plain": round(statistics.median(taken["plain"]) * 1e3, 2),
            "ours": round(statistics.median(taken[tokens, count]) * 1e3, 2),
            "ratio": round(statistics.median(a / b for a, b in pairs), 4),
            "peak_bytes_plain": peaks["plain"],
            "peak_bytes_ours": peaks[tokens, count],
            "nested_bytes": sum(subject.encoder.held for subject in subjects),
        }


def _between_steps(
    model: Any, positive: Any, negative: Any, size: tuple[int, int], channels: int
) -> float:
    """Processor seconds of the second step of two."""
    marks: list[float] = []
    sample(
        model, positive, negative, size, 2, lambda *_: marks.append(time.process_time()), channels
    )
    return marks[1] - marks[0]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside it, and their peak.

    What a kernel holds only while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import torch

        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: Any) -> None:
        # One storage has one Python object as long as that lives; its address names it.
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or size == 0:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class RandomEncoder:
    """Stands where an encoder of this model stands, with random nested keys and values."""

    label = "random"

    def __init__(self, sites: Any, tokens: int, family: str):
        self.info = SimpleNamespace(config=SimpleNamespace(sites=sites), base_family=family)
        self._sites, self._tokens = sites, tokens
        self.held = 0

    def load(self) -> None:
        """There is nothing to load."""

    def keys_values(self, tokens: Any, device: Any, dtype: Any) -> dict[str, tuple[Any, ...]]:
        import torch

        made = {
            site.name: tuple(
                torch.randn(1, self._tokens, site.width, device=device, dtype=dtype)
                for _ in range(2)
            )
            for site in self._sites
        }
        self.held = sum(t.nbytes for pair in made.values() for t in pair)
        return made


def _subjects(model: Any, tokens: int, count: int) -> Any:
    import torch

    module = pack.module("nested_attn_core.subject")
    sites = pack.module("nodes.host.sites").discover_sites(
        model.get_model_object("diffusion_model")
    )
    family = pack.module("nodes.host.families").base_family(model)
    return module.Subjects(
        tuple(
            module.Subject(
                f"s{number}",
                torch.randn(2, 4),
                "person",
                "person",
                RandomEncoder(sites, tokens, family),
                "random",
                token_weight=16.0,
            )  # fmt: skip
            for number in range(count)
        )
    )


def _model(name: str) -> Any:
    if name == "miniature":
        return pack.module("nodes.host.miniature").load_miniature().model
    from full_size_step import base_model

    return base_model(name, "fp32" if name == "sd15" else "bf16")


def _context_width(model: Any) -> int:
    projections = pack.module("nodes.host.sites").site_projections(
        model.get_model_object("diffusion_model")
    )
    return next(iter(projections.values()))[0].shape[1]


def _condition(model: Any, context: Any, slots: Any) -> list[Any]:
    import torch

    more: dict[str, Any] = {"pooled_output": torch.zeros(1, 1280)}
    if slots:
        more["model_conds"] = pack.module("nodes.host.carrier").with_slots({}, slots)
    return [[context, more]]
