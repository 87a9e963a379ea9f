"""Subject Settings."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..nested_attn_core.layers import LayerWeights
from ..nested_attn_core.subject import Subject, Subjects
from .checks import checked
from .sockets import NEIGHBOURS, NestedSubject, schema


class SubjectSettings(io.ComfyNode):
    """Settings for one subject among several."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionSubjectSettings",
            display_name="Subject Settings",
            description=(
                "Gives a subject a strength, steps, a mask and layers of its own, before it is "
                "combined with others. They add to those of Apply Nested Attention: strengths, "
                "weights and masks multiply, and a subject acts in the steps that both allow. As "
                "the node comes, it changes nothing."
            ),
            search_aliases=[*NEIGHBOURS, "layer weights", "attention mask", "regional"],
            inputs=_inputs(),
            outputs=[
                NestedSubject.Output(
                    "subject_out",
                    display_name="subject",
                    tooltip="Goes into Combine Subjects or Apply Nested Attention.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        subject: Subject | Subjects,
        strength: float,
        start_percent: float,
        end_percent: float,
        coarse: float,
        middle: float,
        fine: float,
        token_weight: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        adjusted = [
            item.adjusted(
                strength=strength,
                start_percent=start_percent,
                end_percent=end_percent,
                mask=mask,
                token_weight=token_weight,
                layers=LayerWeights(coarse, middle, fine),
            )
            for item in Subjects.of(subject)
        ]
        return io.NodeOutput(
            Subjects.of(*adjusted) if isinstance(subject, Subjects) else adjusted[0]
        )


def _inputs() -> list[Any]:
    return [
        NestedSubject.Input(
            "subject",
            tooltip="The subject to set, from Encode Subject or Load Subject; a set is set as a "
            "whole.",
        ),
        _number(
            "strength",
            2.0,
            "How much of this subject comes in: 0 leaves the plain class word, 1 is as trained. It "
            "multiplies with the strength of Apply.",
        ),
        _number(
            "start_percent",
            1.0,
            "Where in the sampling it begins to act, 0 being the first step.",
            0,
        ),
        _number(
            "end_percent",
            1.0,
            "Where in the sampling it ceases to act, 1 being the last step.",
        ),
        _number(
            "coarse",
            2.0,
            "Strength in the layers of the lowest resolution, where one place stands for a large "
            "part of the image. 1 is as trained.",
        ),
        _number(
            "middle",
            2.0,
            "Strength in the layers between the coarse and the fine ones. 1 is as trained; SDXL "
            "has none of these.",
        ),
        _number(
            "fine",
            2.0,
            "Strength in the layers of the highest resolution. 1 is as trained; in the miniature "
            "they carry nearly all of a subject's colours and features.",
        ),
        io.Float.Input(
            "token_weight",
            default=1.0,
            min=0.05,
            max=20.0,
            step=0.05,
            tooltip="How much of the image the subject claims: above 1 more, below 1 less. It "
            "multiplies with the token_weight of Apply.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Limits the part of the image in which it may act, white being yes. Any size "
            "will do, one for all images or a batch.",
        ),
    ]


def _number(name: str, most: float, tooltip: str, default: float = 1.0) -> Any:
    step = 0.01 if most == 1 else 0.05
    return io.Float.Input(name, default=default, min=0.0, max=most, step=step, tooltip=tooltip)
