"""Load Nested Encoder."""

from __future__ import annotations

from comfy_api.latest import io

from ..nested_attn_core.release.mapping_file import mapping_path
from .host.files import encoder_names, encoder_path
from .host.memory import load
from .sockets import NEIGHBOURS, NestedEncoder, schema


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
            search_aliases=[*NEIGHBOURS, "personalization", "identity", "unified loader"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=encoder_names(),
                    tooltip="The encoder's file: a .safetensors file in models/nested_attention, "
                    "or a shipped one. Choose one for your kind of subject and your family of "
                    "models.",
                )
            ],
            outputs=[
                NestedEncoder.Output(
                    "encoder",
                    display_name="encoder",
                    tooltip="For Encode Subject, or for Load Subject.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder_name: str) -> str:
        """Changes when the file does, or the mapping file beside it."""
        path = encoder_path(encoder_name)
        files = [file for file in (path, mapping_path(path)) if file.is_file()]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"{encoder_name} {states}"

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(encoder_path(encoder_name), encoder_name))
