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
                "Loads the small text-to-image model that ships with this pack: drawn people, "
                "kittens and robots at 128 x 128 pixels, on any machine, in seconds. It is for "
                "trying the nodes out; for your own pictures load a checkpoint instead."
            ),
            search_aliases=["demo", "tiny model", "example", "checkpoint"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The diffusion model, for Apply Nested Attention. Sample it at 128 x "
                    "128 pixels.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="The text encoder, for Apply Nested Attention. It knows about 130 "
                    "words.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder, for VAE Decode."),
                io.ClipVision.Output(
                    display_name="CLIP_VISION",
                    tooltip="The image model, for Encode Subject with a shipped encoder.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_miniature())
