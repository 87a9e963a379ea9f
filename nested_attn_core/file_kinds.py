"""What a file is, by its content: never by its name, and never by unpickling it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import NestedAttentionError

# Those of real models have at most a few MB. As JSON, a header may take fifty times its length in
# memory, so that the 100 MB which the safetensors library allows could exhaust a machine.
_MAX_HEADER = 25_000_000
_PREFIX = 8

# Of safetensors' dtypes, those in which weights come.
FLOATING = ("F16", "BF16", "F32", "F64")

NEEDED = "a Nested Attention encoder (.safetensors, in models/nested_attention) is needed here"
SUBJECT_NEEDED = (
    "a subject saved by Save Subject (.safetensors, in models/nested_subjects) is needed"
)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: metadata, and dtype and shape of each tensor."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class FileKind:
    """A kind of model file that is no nested encoder, and what to do with it."""

    name: str
    place: str


_IP_ADAPTER = FileKind("an IP-Adapter", "it belongs in models/ipadapter")
_LORA = FileKind("a LoRA", "it belongs in models/loras, for Load LoRA")
_CONTROLNET = FileKind("a ControlNet", "it belongs in models/controlnet, for Load ControlNet Model")
_CHECKPOINT = FileKind("a full checkpoint", "it belongs in models/checkpoints, for Load Checkpoint")
_UNET = FileKind(
    "a diffusion model (UNet or transformer) and no encoder",
    "it belongs in models/diffusion_models, for Load Diffusion Model",
)
_CLIP_VISION = FileKind(
    "a CLIP Vision model", "it belongs in models/clip_vision, for Load CLIP Vision"
)
_TEXT_ENCODER = FileKind("a text encoder", "it belongs in models/text_encoders, for Load CLIP")
_VAE = FileKind("a VAE", "it belongs in models/vae, for Load VAE")
_TRAINING_LAYOUT = FileKind(
    "an adapter in the layout of its authors' training code", "this version cannot read it"
)
_EMBEDDING = FileKind("a textual inversion embedding", "it belongs in models/embeddings")
_SUBJECT = FileKind("a saved subject", "it belongs in models/nested_subjects, for Load Subject")
_ENCODER = FileKind(
    "a nested encoder", "it belongs in models/nested_attention, for Load Nested Encoder"
)

# (kind, key prefixes that must all occur, key parts that must all occur); the first fit counts.
_SIGNS: tuple[tuple[FileKind, tuple[str, ...], tuple[str, ...]], ...] = (
    (_IP_ADAPTER, ("image_proj.", "ip_adapter."), ()),
    (_IP_ADAPTER, (), ("to_k_ip.",)),
    (_TRAINING_LAYOUT, ("adapter_modules.",), ()),
    (_LORA, (), (".lora_down.",)),
    (_LORA, (), (".lora_A.",)),
    (_LORA, (), (".lora.down.",)),
    (_LORA, (), (".lora_linear_layer.down.",)),
    (_LORA, (), (".hada_w1_a",)),
    (_LORA, (), (".lokr_w",)),
    (_CONTROLNET, ("control_model.",), ()),
    (_CONTROLNET, ("controlnet_cond_embedding.",), ()),
    (_CONTROLNET, ("input_hint_block.",), ()),
    (_CHECKPOINT, ("model.diffusion_model.", "first_stage_model."), ()),
    (_CHECKPOINT, ("model.diffusion_model.", "cond_stage_model."), ()),
    (_CHECKPOINT, ("model.diffusion_model.", "conditioner."), ()),
    (_CHECKPOINT, ("model.diffusion_model.", "text_encoders."), ()),
    (_UNET, ("model.diffusion_model.",), ()),
    (_UNET, ("input_blocks.", "output_blocks."), ()),
    (_UNET, ("down_blocks.", "up_blocks.", "time_embedding."), ()),
    (_UNET, ("double_blocks.",), ()),
    (_UNET, ("transformer_blocks.",), ()),
    (_UNET, ("joint_blocks.",), ()),
    (_CLIP_VISION, ("vision_model.",), ()),
    (_CLIP_VISION, ("visual.",), ()),
    (_CLIP_VISION, ("embeddings.patch_embeddings.",), ()),
    (_TEXT_ENCODER, ("text_model.",), ()),
    (_TEXT_ENCODER, ("shared.weight", "encoder.block."), ()),
    (_TEXT_ENCODER, ("model.embed_tokens.",), ()),
    (_VAE, ("first_stage_model.",), ()),
    (_VAE, ("taesd_decoder.",), ()),
    (_VAE, ("encoder.conv_in.", "decoder.conv_in."), ()),
    (_VAE, ("decoder.", "encoder."), (".down",)),
    (_EMBEDDING, ("emb_params",), ()),
    (_EMBEDDING, ("clip_l", "clip_g"), ()),
    (_SUBJECT, ("nested_tokens",), ()),
    (_ENCODER, ("resampler.", "projections."), ()),
)


def recognise(keys: Iterable[str]) -> FileKind | None:
    """The kind of model that tensors of these names make up; None if it is not known."""
    names = tuple(keys)
    for kind, prefixes, parts in _SIGNS:
        begun = all(any(name.startswith(prefix) for name in names) for prefix in prefixes)
        if begun and all(any(part in name for name in names) for part in parts):
            return kind
    return None


def read_header(path: str | Path, needed: str = NEEDED) -> Header:
    """The header of a safetensors file, checked against the file's length.

    `needed` is what messages say is wanted. Raises NestedAttentionError, with what the file is,
    for anything that is not a whole one.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            if not _begins_header(start):
                raise NestedAttentionError(_strange_file(path, start, size, needed))
            length = int.from_bytes(start[:_PREFIX], "little")
            file.seek(_PREFIX)
            raw = file.read(length)
    except FileNotFoundError:
        raise NestedAttentionError(
            f'There is no file "{path.name}"; put it into models/nested_attention and refresh.'
        ) from None
    except OSError as error:
        raise NestedAttentionError(
            f'"{path.name}" cannot be opened ({error.strerror}); {needed}.'
        ) from error
    if len(raw) < length:
        raise NestedAttentionError(_cut_short(path, size))
    header, end = _parse(path, raw)
    surplus = size - (_PREFIX + length + end)
    if surplus < 0:
        raise NestedAttentionError(_cut_short(path, size))
    if surplus > 0:
        raise NestedAttentionError(
            f'"{path.name}" has {surplus} bytes more than its header tells of; download or copy it '
            "again."
        )
    return header


def _begins_header(start: bytes) -> bool:
    length = int.from_bytes(start[:_PREFIX], "little")
    return len(start) > _PREFIX and start[_PREFIX : _PREFIX + 1] == b"{" and length <= _MAX_HEADER


def _parse(path: Path, raw: bytes) -> tuple[Header, int]:
    """The header, and how many bytes of tensors it promises."""
    try:
        data = json.loads(raw)
        metadata = data.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is no text")
        tensors = {name: _entry(entry) for name, entry in data.items()}
        end = max((int(entry["data_offsets"][1]) for entry in data.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise NestedAttentionError(
            f'"{path.name}" has a damaged safetensors header; download or copy it again.'
        ) from error
    return Header(metadata, tensors), end


def _entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    return str(entry["dtype"]), tuple(int(size) for size in entry["shape"])


def _cut_short(path: Path, size: int) -> str:
    return (
        f'"{path.name}" is cut short after {size} bytes, so its download or copy did not finish; '
        "get it again."
    )


def _strange_file(path: Path, start: bytes, size: int, needed: str) -> str:
    """One sentence on a file that does not begin as a safetensors file does."""
    if size == 0:
        return f'"{path.name}" is empty (0 bytes), so its download did not finish; get it again.'
    if size <= _PREFIX:
        return _cut_short(path, size)
    if zipfile.is_zipfile(path) or start.startswith(b"PK\x03\x04"):
        if _holds_pickle(path):
            return _pickled(
                path, "a PyTorch pickle file in a zip (.pt, .pth, .bin or .ckpt)", needed
            )
        return f'"{path.name}" is a zip archive; unpack it, because {needed}.'
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickled(path, "a Python pickle file (.pt, .pth, .bin or .ckpt)", needed)
    if start.startswith(b"GGUF"):
        return f'"{path.name}" is a GGUF model, which belongs in models/unet; {needed}.'
    if start.startswith(b"version https://git-lfs"):
        return (
            f'"{path.name}" is a Git LFS pointer, not the file itself; fetch it with git lfs pull.'
        )
    if start.lstrip()[:1] == b"<":
        return f'"{path.name}" is a web page, saved instead of the file; download the file itself.'
    return f'"{path.name}" is no safetensors file, nor any model file known; {needed}.'


def _pickled(path: Path, kind: str, needed: str) -> str:
    return (
        f'"{path.name}" is {kind}, which can run programs when it is read and is never opened '
        f"here; {needed}, so ask its author for one."
    )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # torch.save is what writes model files as zips; a cut one has lost its table of contents.
        return True
