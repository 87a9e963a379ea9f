"""Example Picture."""

from __future__ import annotations

from comfy_api.latest import io, ui

from .host.example_pictures import example_names, load_example
from .sockets import schema


class ExamplePicture(io.ComfyNode):
    """A picture that ships with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionExamplePicture",
            display_name="Example Picture",
            description=(
                "One of the pictures that ship with this pack, so that its templates run as they "
                "come: subjects that no training of the miniature has seen, and photos to put "
                "subjects into. For your own pictures, put Load Image in its place."
            ),
            search_aliases=["nested attention", "load image", "reference", "demo"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=example_names(),
                    tooltip="A person, kitten or robot (192 x 192 pixels), or a photo to put a "
                    "subject into (128 x 128).",
                )
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    display_name="image",
                    tooltip="The picture, for wherever an image goes.",
                )
            ],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        pixels = load_example(picture)
        return io.NodeOutput(pixels, ui=ui.PreviewImage(pixels))
