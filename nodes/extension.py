"""The list of nodes that the host asks for."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyNestedAttention
from .encoder import LoadNestedEncoder
from .example import ExamplePicture
from .faces import CropFaces
from .host.files import register_folder
from .host.subject_files import register_subjects
from .maps import AttentionMaps, WatchAttention
from .miniature import LoadMiniature
from .prompt import NestedPrompt
from .replaced import register
from .saved import LoadSubject, SaveSubject
from .separate import SeparateSubjects
from .settings import SubjectSettings
from .subject import CombineSubjects, EncodeSubject
from .train import TrainNestedEncoder


class NestedAttentionExtension(ComfyExtension):
    """All nodes of the pack."""

    async def on_load(self) -> None:
        # Hosts before 0.13 never call this.
        await register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Hosts before 0.13 never call on_load.
        register_folder()
        register_subjects()
        return [
            LoadNestedEncoder,
            EncodeSubject,
            CombineSubjects,
            ApplyNestedAttention,
            NestedPrompt,
            LoadMiniature,
            ExamplePicture,
            TrainNestedEncoder,
            SaveSubject,
            LoadSubject,
            SubjectSettings,
            WatchAttention,
            AttentionMaps,
            CropFaces,
            SeparateSubjects,
        ]
