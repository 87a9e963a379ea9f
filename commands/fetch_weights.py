"""Downloads the authors' encoder and its image model into ComfyUI's folders, after asking.

Needs huggingface_hub and a network. A download that was stopped goes on where it was; what the hub
says of size and sha256 is checked before a file gets its name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack

REPOSITORY = "orpatashnik/NestedAttentionEncoder"
# Folder in the repository -> folder among ComfyUI's models, and the name that the file gets there.
PLACES = {
    "personalization_encoder": ("nested_attention", "nested_attention_person_sdxl.safetensors"),
    "image_encoder": ("clip_vision", "nested_attention_image_encoder.safetensors"),
}


class FetchError(Exception):
    """Why nothing can be fetched, in one sentence."""


@dataclass(frozen=True)
class Wanted:
    """A file of the repository, and where it goes."""

    name: str
    size: int
    sha256: str | None
    target: Path

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def begun(self) -> int:
        """Bytes that an earlier download left."""
        return self.partial.stat().st_size if self.partial.exists() else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py fetch-weights", description=__doc__)
    made.add_argument(
        "--models", type=Path, help="ComfyUI's folder of models; else that of COMFYUI_PATH"
    )
    made.add_argument("--yes", action="store_true", help="do not ask before downloading")
    return made


def listed(models: Path) -> tuple[list[Wanted], str]:
    """The safetensors files of the repository that have a place, and its licence.

    Raises FetchError where the hub cannot be asked or has no such file.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(REPOSITORY, files_metadata=True)
    except Exception as error:
        raise FetchError(_unreachable(error)) from error
    found = [
        Wanted(
            file.rfilename,
            file.size or 0,
            file.lfs.sha256 if file.lfs else None,
            models / PLACES[folder][0] / PLACES[folder][1],
        )
        for folder in PLACES
        for file in info.siblings or ()
        if file.rfilename.startswith(f"{folder}/") and file.rfilename.endswith(".safetensors")
    ]
    if not found:
        raise FetchError(
            f"{REPOSITORY} has no .safetensors file where it was expected; look at its page, and "
            "put the files in place by hand (docs/weights.md)."
        )
    return found, (info.card_data or {}).get("license") or "not stated"


def fetch(file: Wanted) -> None:
    """Downloads one file, or the rest of it. Raises FetchError; what arrived is kept."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    file.target.parent.mkdir(parents=True, exist_ok=True)
    if file.begun > file.size:
        file.partial.unlink()
    needed = file.size - file.begun
    free = shutil.disk_usage(file.target.parent).free
    if free < needed:
        raise FetchError(
            f"{file.target.parent} has {free / 1e9:.1f} GB free and {file.name} needs "
            f"{needed / 1e9:.1f} GB more; make room and run the command again."
        )
    try:
        with file.partial.open("ab") as part:
            http_get(
                hf_hub_url(REPOSITORY, file.name),
                part,
                resume_size=file.begun,
                headers=build_hf_headers(),
                expected_size=file.size,
            )
    except Exception as error:
        raise FetchError(_unreachable(error)) from error
    sha256_of = pack.module("nested_attn_core.fingerprint").file_fingerprint
    if file.sha256 and sha256_of(file.partial) != file.sha256:
        file.partial.unlink()
        raise FetchError(
            f"What arrived of {file.name} is not what the hub says it is (sha256), and was "
            "removed; run the command again."
        )
    os.replace(file.partial, file.target)


def _unreachable(error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (
        f"{REPOSITORY} cannot be downloaded ({reason[0] if reason else type(error).__name__}); "
        "check the network and run the command again, or put the files in place by hand "
        "(docs/weights.md)."
    )


def agreed(files: Sequence[Wanted], licence: str, sure: bool) -> bool:
    """Shows what would be downloaded, and asks."""
    print(f"From huggingface.co/{REPOSITORY}, licence: {licence}")
    for file in files:
        rest = f", {file.begun / 1e6:.0f} MB there already" if file.begun else ""
        print(f"  {file.name} ({file.size / 1e6:.0f} MB{rest})\n    to {file.target}")
    if sure:
        return True
    try:
        return input("Download? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def run(words: Any) -> int:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise FetchError(
            "fetch-weights needs huggingface_hub, which is not installed here: pip install "
            "huggingface_hub, or put the files in place by hand (docs/weights.md)."
        ) from None
    files, licence = listed(words.models or pack.host_path() / "models")
    missing = [file for file in files if not file.target.exists()]
    for file in files:
        if file not in missing:
            print(f"{file.target} is there already.")
    if not missing:
        return 0
    if not agreed(missing, licence, words.yes):
        print("Nothing was downloaded.")
        return 1
    for file in missing:
        fetch(file)
        print(f"Written: {file.target}")
    return 0


def main() -> int:
    try:
        return run(parser().parse_args())
    except (FetchError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on.", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
