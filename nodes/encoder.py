"""Load Nested Encoder."""

from __future__ import annotations

from comfy_api.latest import io

from .host.files import encoder_names, encoder_path
from .host.memory import load
from .sockets import NestedEncoder, schema


class LoadNestedEncoder(io.ComfyNode):
    """Reads an encoder's file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionLoadEncoder",
            display_name="Load Nested Encoder",
            description=(
                "Loads the encoder that turns reference images of one kind of subject (people, "
                "pets, ...) into a subject for your prompts. An encoder belongs to one family of "
                "models."
            ),
            search_aliases=["nested attention", "personalization", "identity", "ip-adapter"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=encoder_names(),
                    tooltip="A .safetensors file in models/nested_attention, or a shipped one.",
                )
            ],
            outputs=[
                NestedEncoder.Output(
                    "encoder",
                    display_name="encoder",
                    tooltip="Goes into Encode Subject.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder_name: str) -> str:
        """Changes when the file does."""
        state = encoder_path(encoder_name).stat()
        return f"{encoder_name} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(encoder_path(encoder_name), encoder_name))
