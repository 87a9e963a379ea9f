"""Watch Attention and Attention Maps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..nested_attn_core.errors import NestedAttentionError
from ..nested_attn_core.layers import GROUPS
from ..nested_attn_core.recording import PERIODS
from .checks import checked
from .host.drawn_maps import draw
from .host.watching import Watcher
from .sockets import AttentionRecorder, schema

ALL = "all"


class WatchAttention(io.ComfyNode):
    """A recorder beside the sampling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionWatch",
            display_name="Watch Attention",
            description=(
                "Records where the words of your subjects look while an image is made, for "
                "Attention Maps. The image stays exactly the same; sampling takes longer. Use one "
                "Watch Attention for each sampler: it keeps the last run."
            ),
            search_aliases=["attention map", "heat map", "daam", "debug"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to watch, before or after Apply Nested Attention."
                )
            ],
            outputs=[
                io.Model.Output(
                    "model_out",
                    display_name="model",
                    tooltip="The watched model, for the sampler.",
                ),
                AttentionRecorder.Output(
                    "recorder",
                    display_name="recorder",
                    tooltip="What was seen, for Attention Maps.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: Any) -> io.NodeOutput:
        watcher = Watcher()
        return io.NodeOutput(watcher.install(model), watcher)


class AttentionMaps(io.ComfyNode):
    """What the recorder saw, as pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionMaps",
            display_name="Attention Maps",
            description=(
                "Shows where each subject's word looked, as heat maps over the image, and which of "
                "the tokens read from its reference images each place drew on. Up to four images "
                "of a batch are shown."
            ),
            search_aliases=["heat map", "daam", "debug"],
            inputs=[
                AttentionRecorder.Input(
                    "recorder", tooltip="What was seen while sampling, from Watch Attention."
                ),
                io.Image.Input(
                    "image",
                    tooltip="The image that the watched sampler made, decoded; the maps lie over "
                    "it.",
                ),
                io.Combo.Input(
                    "steps",
                    options=[ALL, *PERIODS],
                    default=ALL,
                    tooltip="Which third of the sampling steps to show.",
                ),
                io.Combo.Input(
                    "layers",
                    options=[ALL, *GROUPS],
                    default=ALL,
                    tooltip="Which layers to show: those of the lowest resolution (coarse), of the "
                    "highest (fine), or those between (middle).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "maps",
                    display_name="maps",
                    tooltip="Where each subject's word looked: all images for the first subject, "
                    "then for the next.",
                ),
                io.Image.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="Which nested token each place drew on most, a colour for each token; "
                    "in the same order.",
                ),
                io.Image.Output(
                    "legend",
                    display_name="legend",
                    tooltip="Both for the first image, with names and scales.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, recorder: Watcher, image: Tensor, steps: str, layers: str) -> io.NodeOutput:
        periods = _chosen("steps", steps, PERIODS)
        groups = _chosen("layers", layers, GROUPS)
        return io.NodeOutput(*draw(recorder.record, image, periods, groups))


def _chosen(name: str, value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if value == ALL:
        return known
    if value not in known:
        raise NestedAttentionError(
            f'{name} is "{value}"; choose {ALL} or one of {", ".join(known)}.'
        )
    return (value,)
