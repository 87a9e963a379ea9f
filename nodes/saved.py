"""Save Subject and Load Subject."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..nested_attn_core.errors import NestedAttentionError
from ..nested_attn_core.placeholders import clean_name
from ..nested_attn_core.subject import Subject, Subjects
from ..nested_attn_core.subject_file import load_subject
from .checks import checked
from .host.memory import LoadedEncoder
from .host.subject_files import SUBJECTS, store, subject_names, subject_path
from .sockets import NEIGHBOURS, NestedEncoder, NestedSubject, schema


class SaveSubject(io.ComfyNode):
    """A subject to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionSaveSubject",
            display_name="Save Subject",
            description=(
                f"Saves what was read from a subject's images as one file in models/{SUBJECTS}, "
                "where Load Subject finds it. A file that is there is never written over: the new "
                "one gets a number. Strength, steps, mask and layers are not saved, as they belong "
                "to a picture."
            ),
            search_aliases=[*NEIGHBOURS, "save embeds", "export subject"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                NestedSubject.Input(
                    "subject",
                    tooltip="The subject to save, from Encode Subject: one, not a set.",
                ),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip="Name of the file, without folder and ending. Leave it empty for the "
                    "subject's own name.",
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="A picture of the subject, saved beside the file as a PNG that holds "
                    "this workflow. Drop the PNG on the page to open the workflow again.",
                ),
            ],
            outputs=[
                NestedSubject.Output(
                    "saved", display_name="subject", tooltip="The subject that came in, unchanged."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Under which name it was saved."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, subject: Subject | Subjects, filename: str, thumbnail: Tensor | None = None
    ) -> io.NodeOutput:
        if len(Subjects.of(subject)) != 1:
            raise NestedAttentionError(
                f"{len(Subjects.of(subject))} subjects are connected; save each by itself, before "
                "Combine Subjects."
            )
        one = Subjects.of(subject)[0]
        path = store(one, filename, thumbnail, _notes(cls.hidden))
        wanted = (filename.strip() or one.name).removesuffix(".safetensors").strip()
        report = f"{one.name}: saved as {path.name} in models/{SUBJECTS}"
        if path.stem != wanted:
            report += f", because {wanted} is there already"
        return io.NodeOutput(one, report, ui=ui.PreviewText(report))


class LoadSubject(io.ComfyNode):
    """A file to a subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NestedAttentionLoadSubject",
            display_name="Load Subject",
            description=(
                "Loads a subject that Save Subject saved; no image and no CLIP Vision model are "
                "needed. It works with the encoder that made it, and checks that it is that one."
            ),
            search_aliases=[*NEIGHBOURS, "load embeds", "import subject"],
            inputs=[
                NestedEncoder.Input(
                    "encoder",
                    tooltip="The encoder that made the subject, from Load Nested Encoder; another "
                    "one is refused.",
                ),
                io.Combo.Input(
                    "subject_name",
                    options=subject_names(),
                    tooltip=f"The subject's file in models/{SUBJECTS}. Refresh the page (key R) "
                    "after saving one.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="What prompts call the subject. Leave it empty for the name that it "
                    "was saved with.",
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
    def fingerprint_inputs(cls, subject_name: str, **others: Any) -> str:
        """Changes when the file does."""
        state = subject_path(subject_name).stat()
        return f"{subject_name} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    @checked
    def execute(cls, encoder: LoadedEncoder, subject_name: str, name: str = "") -> io.NodeOutput:
        saved = load_subject(subject_path(subject_name))
        wanted = clean_name(name) if name.strip() else None
        return io.NodeOutput(saved.with_encoder(encoder, wanted))


def _notes(hidden: Any) -> dict[str, Any]:
    """What the host's Save Image writes into a PNG: the graph as run, and as drawn."""
    if hidden is None:
        return {}
    graph = {"prompt": hidden.prompt} if hidden.prompt else {}
    return {**graph, **(hidden.extra_pnginfo or {})}
