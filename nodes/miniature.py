"""Load Miniature."""

from __future__ import annotations

from comfy_api.latest import io

from .host.miniature import load_miniature
from .sockets import schema


class LoadMiniature(io.ComfyNode):
    """The small model that ships with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionLoadMiniature",
            display_name="Load Miniature",
            description=(
                "Loads the small text-to-image model that ships with this pack: drawn people and "
                "kittens at 128 x 128 pixels, on any machine, in seconds. It is for trying the "
                "nodes out; for your own pictures load a checkpoint instead."
            ),
            search_aliases=["nested attention", "demo", "tiny model", "example"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="Goes into Apply Nested Attention. Sample it at 128 x 128 pixels.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Goes into Apply Nested Attention. Knows about a hundred words.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="Goes into VAE Decode."),
                io.ClipVision.Output(
                    display_name="CLIP_VISION",
                    tooltip="Goes into Encode Subject, with the shipped encoders.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_miniature())
