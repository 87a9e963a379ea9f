"""Watching attention during a run: a recorder beside the sampling, on a clone of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...nested_attn_core.attention import SiteSubject
from ...nested_attn_core.recording import PERIODS, AttentionRecord, Frame
from .patch import PLAN, WATCH


class Watcher:
    """Records the last run of the models that it is installed on; it only looks."""

    def __init__(self) -> None:
        self.record: AttentionRecord | None = None
        self._period = PERIODS[0]

    def install(self, model: Any) -> Any:
        """A clone of a host MODEL that is watched."""
        watched = model.clone()
        watched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WATCH, self.outer_sample)
        return watched

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around a whole run, which begins with an empty record."""
        options = executor.class_obj.model_options["transformer_options"]
        above = options.get(WATCH)
        self.record = AttentionRecord()
        options[WATCH] = self if above is None else _Both(above, self)
        try:
            return executor(*args, **kwargs)
        finally:
            options.pop(WATCH, None)
            if above is not None:
                options[WATCH] = above

    def step(self, sigma: float, sigmas: Tensor | None) -> None:
        """Before each model call: the part of the sampling that it belongs to."""
        if sigmas is None or len(sigmas) < 2:
            return
        done = int((sigmas > sigma * (1 + 1e-5)).sum())
        self._period = PERIODS[min(done * len(PERIODS) // (len(sigmas) - 1), len(PERIODS) - 1)]

    def see(
        self,
        site: str,
        query: Tensor,
        key: Tensor,
        subjects: Sequence[SiteSubject],
        extra_options: Mapping[str, Any],
    ) -> None:
        """One call of one site that has subjects."""
        plan, record = extra_options[PLAN], self.record
        shape = extra_options.get("activations_shape")
        size = plan.place.size if shape is None else (int(shape[-2]), int(shape[-1]))
        if record is None or size[0] * size[1] != query.shape[1]:
            return
        frames = [
            Frame(window.ys, window.xs, window.image, plan.place.latent)
            for window in plan.place.windows
        ]
        heads = extra_options["n_heads"]
        where = (self._period, plan.group(site))
        record.add(where, plan.names, query, key, subjects, heads, frames, size)


class _Both:
    """Two watchers of one run."""

    def __init__(self, first: Any, second: Any):
        self._all = (first, second)

    def step(self, *args: Any) -> None:
        for watcher in self._all:
            watcher.step(*args)

    def see(self, *args: Any) -> None:
        for watcher in self._all:
            watcher.see(*args)
