"""Where saved subjects lie: the host's `models/nested_subjects`, each with a PNG beside it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.file_names import SUFFIX, file_stem
from ...nested_attn_core.pictures import check_pictures
from ...nested_attn_core.subject import Subject
from ...nested_attn_core.subject_file import SavedSubject, save_subject
from .files import full_path, listed

SUBJECTS = "nested_subjects"
_THUMBNAIL_SIDE = 512


def register_subjects() -> None:
    """Tells the host of `models/nested_subjects`; folders that a user set stay in front."""
    default = Path(folder_paths.models_dir) / SUBJECTS
    folder_paths.add_model_folder_path(SUBJECTS, str(default))
    paths, extensions = folder_paths.folder_names_and_paths[SUBJECTS]
    folder_paths.folder_names_and_paths[SUBJECTS] = (paths, set(extensions) | {SUFFIX})
    with contextlib.suppress(OSError):
        default.mkdir(parents=True, exist_ok=True)


def subject_names() -> list[str]:
    """What Load Subject offers."""
    return listed(SUBJECTS)


def subject_path(name: str) -> Path:
    """The file of a name in the list; raises NestedAttentionError if there is none."""
    found = full_path(SUBJECTS, name)
    if found is None:
        raise NestedAttentionError(
            f'There is no saved subject "{name}"; save one by Save Subject, or put its file into '
            f"models/{SUBJECTS}, refresh the page and choose it again."
        )
    return Path(found)


def store(
    subject: Subject, filename: str, image: Tensor | None, notes: Mapping[str, Any] | None = None
) -> Path:
    """Writes a subject, and its thumbnail if there is an image (B, H, W, 3); the subject's path.

    `filename` "" is the subject's name. A name that is taken gets a number; nothing is written
    over. `notes` go into the PNG, as the host's own Save Image writes them. Raises
    NestedAttentionError for a name that is none, and where the folder cannot be written to.
    """
    stem = file_stem(filename or subject.name)
    if image is not None:
        check_pictures(image, "thumbnail")
    folder = Path(folder_paths.get_folder_paths(SUBJECTS)[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reserved(folder, stem) as path:
            save_subject(path, SavedSubject.of(subject))
        if image is not None:
            _save_thumbnail(path.with_suffix(".png"), image[0], notes or {})
    except OSError as error:
        raise NestedAttentionError(
            f"The subject <{subject.name}> cannot be saved in models/{SUBJECTS} "
            f"({error.strerror or error}); make room there, or make the folder writable."
        ) from error
    return path


@contextlib.contextmanager
def reserved(folder: Path, stem: str) -> Iterator[Path]:
    """An empty file of our own under the first free name, to be written over; no other program can
    take it then. It goes again if writing fails."""
    path = _taken(folder, stem)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _taken(folder: Path, stem: str) -> Path:
    for path in _candidates(folder, stem):
        thumbnail = path.with_suffix(".png")
        if os.path.lexists(thumbnail):
            continue
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return path
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}{SUFFIX}"
    number = 2
    while True:
        yield folder / f"{stem}_{number}{SUFFIX}"
        number += 1


def _save_thumbnail(path: Path, pixels: Tensor, notes: Mapping[str, Any]) -> None:
    array = (pixels[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(array)
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    info = PngInfo()
    if not args.disable_metadata:
        for name, note in notes.items():
            info.add_text(name, json.dumps(note))
    unfinished = path.with_name(path.name + ".part")
    try:
        # A link in its place would be followed.
        unfinished.unlink(missing_ok=True)
        picture.save(unfinished, format="PNG", pnginfo=info)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
