"""Encode Subject and Combine Subjects."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..nested_attn_core.placeholders import clean_name
from ..nested_attn_core.subject import Subject, Subjects
from .checks import checked
from .host.memory import LoadedEncoder
from .host.vision import CROP, PAD, image_features, seen
from .sockets import NEIGHBOURS, NestedEncoder, NestedSubject, schema


class EncodeSubject(io.ComfyNode):
    """Reference images to a subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionEncodeSubject",
            display_name="Encode Subject",
            description=(
                "Turns one or more images of a subject into something that a prompt can call by "
                "name. Several images of the same subject (a batch) are used together. The node "
                "shows what the image model saw."
            ),
            search_aliases=[*NEIGHBOURS, "reference image", "personalization", "face"],
            inputs=[
                NestedEncoder.Input(
                    "encoder",
                    tooltip="What reads the images, from Load Nested Encoder. Choose one for this "
                    "kind of subject.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image model that the encoder was trained with; for shipped "
                    "encoders, that of Load Miniature.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="Pictures of the subject, which should be large and alone in them. A "
                    "batch shows one subject several times.",
                ),
                io.String.Input(
                    "name",
                    default="anna",
                    tooltip="What prompts call the subject: anna is written <anna>. Choose one "
                    "word of letters and digits; upper and lower case are the same.",
                ),
                io.Mask.Input(
                    "crop_mask",
                    optional=True,
                    tooltip="Marks the subject in the image, which is then cropped to a square "
                    "around it. Use it where the subject is small or not alone.",
                ),
                NestedSubject.Input(
                    "join",
                    optional=True,
                    tooltip="More images of the same subject, from another Encode Subject with the "
                    "same encoder: for images of other sizes, or with crop masks of their own.",
                ),
                io.Combo.Input(
                    "framing",
                    options=[PAD, CROP],
                    default=PAD,
                    optional=True,
                    tooltip="What happens to an image that is not square: pad adds a grey border, "
                    "crop keeps the middle. Choose pad where the subject would be cut.",
                ),
            ],
            outputs=[
                NestedSubject.Output(
                    "subject",
                    display_name="subject",
                    tooltip="Goes into Apply Nested Attention, or into Combine Subjects first.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        encoder: LoadedEncoder,
        clip_vision: Any,
        image: Tensor,
        name: str,
        crop_mask: Tensor | None = None,
        join: Subject | Subjects | None = None,
        framing: str = PAD,
    ) -> io.NodeOutput:
        name = clean_name(name)
        features = image_features(clip_vision, encoder, image, crop_mask, framing)
        shown = seen(clip_vision, image, crop_mask, framing)
        subject = encoder.subject(name, features)
        for other in () if join is None else Subjects.of(join):
            subject = subject.joined(other)
        return io.NodeOutput(subject, ui=ui.PreviewImage(shown))


class CombineSubjects(io.ComfyNode):
    """Several subjects to one set."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionCombineSubjects",
            display_name="Combine Subjects",
            description=(
                "Joins subjects, so that one prompt can name them all. Inputs may be sets "
                "themselves; each subject needs its own name."
            ),
            search_aliases=[*NEIGHBOURS, "several subjects", "merge subjects", "multi id"],
            inputs=[
                NestedSubject.Input(
                    f"subject_{number}",
                    optional=number > 2,
                    tooltip="A subject, or a set from another Combine Subjects. Each needs a name "
                    "of its own.",
                )
                for number in range(1, 5)
            ],
            outputs=[
                NestedSubject.Output(
                    "subjects",
                    display_name="subjects",
                    tooltip="All subjects of the inputs, for Apply Nested Attention.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        subject_1: Subject | Subjects | None = None,
        subject_2: Subject | Subjects | None = None,
        subject_3: Subject | Subjects | None = None,
        subject_4: Subject | Subjects | None = None,
    ) -> io.NodeOutput:
        parts = (subject_1, subject_2, subject_3, subject_4)
        return io.NodeOutput(Subjects.of(*(part for part in parts if part is not None)))
