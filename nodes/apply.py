"""Apply Nested Attention."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..nested_attn_core.attention import NormControl
from ..nested_attn_core.subject import Subject, Subjects
from .checks import checked
from .host.binding import bind_model
from .host.report import model_report
from .host.shown import show_text
from .host.text import bind_clip
from .sockets import NEIGHBOURS, NestedSubject, folded, schema

AS_TRAINED = "as trained"


class ApplyNestedAttention(io.ComfyNode):
    """Subjects onto a model and its text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionApply",
            display_name="Apply Nested Attention",
            description=(
                "Lets prompts name your subjects: encode them with the CLIP that comes out, write "
                "<anna> where anna should appear, and sample with the MODEL that comes out. A "
                "subject that a prompt does not name changes nothing. Settings here hold for all "
                "subjects that come in; Subject Settings gives one its own."
            ),
            search_aliases=[*NEIGHBOURS, "personalization", "identity", "lora"],
            hidden=[io.Hidden.unique_id],
            inputs=folded(_inputs(), "norm", "norm_factor"),
            outputs=[
                io.Model.Output(
                    "model_out",
                    display_name="model",
                    tooltip="For the sampler; the model that came in stays as it is.",
                ),
                io.Clip.Output(
                    "clip_out",
                    display_name="clip",
                    tooltip="For any text encode node: its prompts may name the subjects.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        clip: Any,
        subject: Subject | Subjects,
        strength: float,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        norm: str = AS_TRAINED,
        norm_factor: float = 2.0,
        token_weight: float = 1.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        control = None if norm == AS_TRAINED else NormControl(norm, norm_factor)  # type: ignore[arg-type]
        subjects = Subjects(
            tuple(
                item.adjusted(
                    strength=strength,
                    start_percent=start_percent,
                    end_percent=end_percent,
                    mask=mask,
                    token_weight=token_weight,
                    norm=control,
                )
                for item in Subjects.of(subject)
            )
        )
        bound = bind_model(model, subjects)
        show_text(cls.hidden, model_report(bound))
        return io.NodeOutput(bound, bind_clip(clip, subjects))


def _inputs() -> list[Any]:
    return [
        io.Model.Input(
            "model",
            tooltip="The model to sample with; choose one of the family that the encoder was made "
            "for: SD1.5, SD2, SDXL, or the miniature.",
        ),
        io.Clip.Input(
            "clip", tooltip="The text encoder of the same model, before any prompt is encoded."
        ),
        NestedSubject.Input(
            "subject",
            tooltip="The subjects that prompts may name: one from Encode Subject or Load Subject, "
            "or several from Combine Subjects.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="How much of the subjects comes in: 0 leaves the plain class word, 1 is as "
            "trained. Start at 1; lower it where the rest of the prompt is lost.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the sampling the subjects begin to act, 0 being the first step. "
            "Above 0 the prompt alone decides the composition.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the sampling the subjects cease to act, 1 being the last step. "
            "Below 1 the last details come from the prompt alone.",
        ),
        io.Combo.Input(
            "norm",
            options=[AS_TRAINED, "text", "none"],
            default=AS_TRAINED,
            optional=True,
            tooltip="Sets the length of the nested values: as the encoder was trained, norm_factor "
            "times that of the text value which they replace (text), or left alone (none). Keep it "
            "as trained unless you want to experiment.",
        ),
        io.Float.Input(
            "norm_factor",
            default=2.0,
            min=0.0,
            max=10.0,
            step=0.05,
            optional=True,
            tooltip="How long the nested values are where norm is text; more gives the subject "
            "more weight.",
        ),
        io.Float.Input(
            "token_weight",
            default=1.0,
            min=0.05,
            max=20.0,
            step=0.05,
            optional=True,
            tooltip="Multiplies the odds of the subject's word in the attention map, on top of "
            "what the encoder was trained with. Above 1 the subject claims more of the image, "
            "below 1 less.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Limits the part of the image in which the subjects may act, white being yes. "
            "Any size will do; leave it out for the whole image.",
        ),
    ]
