"""Separate Subjects."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..nested_attn_core.separation import ASSIGNMENTS, Separation
from .host.separating import separated
from .sockets import schema


class SeparateSubjects(io.ComfyNode):
    """Remedies for several subjects in one prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionSeparate",
            display_name="Separate Subjects",
            description=(
                "Keeps several subjects of one prompt apart: each place of the image takes its "
                "looks from one subject, and subjects do not look at each other. A prompt that "
                "names one subject or none is not changed. Try it where one subject takes on the "
                "other's colours or features."
            ),
            search_aliases=["nested attention", "bounded attention", "leakage", "multi subject"],
            inputs=_inputs(),
            outputs=[
                io.Model.Output(
                    "model_out",
                    display_name="model",
                    tooltip="For the sampler; the model that came in stays as it is.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        assignment: str,
        bounded: bool,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        smoothing: float = 0.8,
        region: float = 0.5,
    ) -> io.NodeOutput:
        separation = Separation(
            assignment,  # type: ignore[arg-type]
            bounded,
            start_percent,
            end_percent,
            smoothing,
            region,
        )
        return io.NodeOutput(separated(model, separation))


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="Before or after Apply Nested Attention."),
        io.Combo.Input(
            "assignment",
            options=list(ASSIGNMENTS),
            default="soft",
            tooltip="Which subject gives a place its looks: soft shares it by how much each word "
            "is looked at there, exclusive gives it to the one that is looked at most, off leaves "
            "it to all.",
        ),
        io.Boolean.Input(
            "bounded",
            default=True,
            tooltip="Whether the places of one subject do not look at those of another in "
            "self-attention; the background sees all and is seen by all.",
        ),
        _percent("start_percent", 0.0, "Where in the sampling this begins (0 = first step)."),
        _percent("end_percent", 1.0, "Where in the sampling this ends (1 = last step)."),
        io.Float.Input(
            "smoothing",
            default=0.8,
            min=0.0,
            max=0.95,
            step=0.05,
            optional=True,
            tooltip="How much of a subject's place is taken from the layers before; 0 lets each "
            "layer decide for itself.",
        ),
        io.Float.Input(
            "region",
            default=0.5,
            min=0.05,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="How strongly a place must look at a subject's word to be bounded, as part of "
            "the strongest in the image; less makes larger regions.",
        ),
    ]


def _percent(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, optional=True, tooltip=tooltip
    )
