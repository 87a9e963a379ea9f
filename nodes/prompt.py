"""Nested Prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..nested_attn_core.errors import NestedAttentionError
from .checks import checked
from .host.report import binding_report
from .host.shown import show_text
from .host.text import TOO_DEEP
from .sockets import schema


class NestedPrompt(io.ComfyNode):
    """A text encode that shows what it binds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionPrompt",
            display_name="Nested Prompt",
            description=(
                "Encodes a prompt, as CLIP Text Encode does, and shows which words were bound to "
                "which subject."
            ),
            search_aliases=["clip text encode", "prompt", "trigger word"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP that comes out of Apply Nested Attention."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, with names in angle brackets: a photo of <anna> on a "
                    "beach. Weights work as always: (<anna>:1.2).",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="The encoded prompt, positive or negative, for any sampler.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Which words of the prompt stand for which subject. Connect it to "
                    "Preview as Text to read it.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, clip: Any, text: str) -> io.NodeOutput:
        if not text.strip():
            raise NestedAttentionError(
                "The prompt is empty; write what the image should show and name a subject in it, "
                "such as <anna>, or use CLIP Text Encode for an empty negative prompt."
            )
        try:
            tokens = clip.tokenize(text)
        except RecursionError as error:  # of a CLIP without subjects
            raise NestedAttentionError(TOO_DEEP) from error
        report = binding_report(clip, tokens)
        show_text(cls.hidden, report.replace("\n- ", "\n").removeprefix("- "))
        conditioning = clip.encode_from_tokens_scheduled(tokens)
        return io.NodeOutput(conditioning, report, ui=ui.PreviewText(report))
