"""Where encoder files lie: the host's `models/nested_attention`, and the pack's own `models/`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import folder_paths

from ...nested_attn_core.checkpoint import read_info
from ...nested_attn_core.errors import NestedAttentionError

FOLDER = "nested_attention"
SHIPPED = "(shipped) "
_EXTENSIONS = {".safetensors", ".sft"}
_PACK_MODELS = Path(__file__).resolve().parents[2] / "models"


def register_folder() -> None:
    """Tells the host of `models/nested_attention`; folders that a user set stay in front."""
    default = Path(folder_paths.models_dir) / FOLDER
    folder_paths.add_model_folder_path(FOLDER, str(default))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | _EXTENSIONS)
    # An installation that cannot be written to still has the shipped encoders.
    with contextlib.suppress(OSError):
        default.mkdir(parents=True, exist_ok=True)


def encoder_names() -> list[str]:
    """What Load Nested Encoder offers: the user's files, then the shipped encoders."""
    return [*listed(FOLDER), *_shipped()]


def listed(folder: str) -> list[str]:
    """The files of that kind but empty ones, which a save that was cut off leaves."""
    return [name for name in folder_paths.get_filename_list(folder) if not _is_empty(folder, name)]


def _is_empty(folder: str, name: str) -> bool:
    path = folder_paths.get_full_path(folder, name)
    try:
        return path is None or Path(path).stat().st_size == 0
    except OSError:
        return True


def encoder_path(name: str) -> Path:
    """The file of a name; raises NestedAttentionError if there is none."""
    # The API takes any value here.
    if isinstance(name, str) and name in _shipped():
        return _shipped()[name]
    found = full_path(FOLDER, name)
    if found is None:
        raise NestedAttentionError(
            f'There is no encoder "{name}"; put its file into models/{FOLDER}, refresh the page '
            "and choose it again."
        )
    return Path(found)


def full_path(folder: str, name: object) -> str | None:
    """The file of a name among the host's folders of that kind, or None.

    The API takes any value for a name, and workflows from Windows have "\\" between folders.
    """
    if not isinstance(name, str) or not name:
        return None
    found = folder_paths.get_full_path(folder, name)
    return found or folder_paths.get_full_path(folder, name.replace("\\", "/"))


def _shipped() -> dict[str, Path]:
    return {
        SHIPPED + path.name: path
        for path in sorted(_PACK_MODELS.glob("*.safetensors"))
        if _is_encoder(path)
    }


def _is_encoder(path: Path) -> bool:
    try:
        read_info(path)
    except NestedAttentionError:
        return False
    return True
