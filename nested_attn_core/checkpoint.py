"""The file of a nested encoder: one safetensors file that describes itself.

Tensors are named `resampler.*` and `projections.<site>.to_k.weight` / `.to_v.weight`; the metadata
key "nested_attention" holds an EncoderInfo as JSON. A file may also hold `placeholder.<stream>`, an
embedding for each text stream; it is of format 2 then, so that older readers ask for an update. A
file without that key is read by its structure where it can be (`release`): so are the authors' own
weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .attention import NormControl
from .encoder import EncoderConfig, NestedEncoder
from .errors import NestedAttentionError
from .file_kinds import FLOATING, NEEDED, Header, read_header, recognise
from .release.reading import Reading, Source, cut, read_structure
from .whole_files import save_whole

FORMAT_VERSION = 2
_PLACEHOLDER = "placeholder."
METADATA_KEY = "nested_attention"
BASE_FAMILIES = ("sd15", "sd2", "sdxl", "miniature")
# Image models by the width of their features; both of the paper's candidates and ViT-L see 224 px.
_IMAGE_MODELS = {1280: "CLIP ViT-H/14", 1664: "CLIP ViT-bigG/14", 1024: "CLIP ViT-L/14"}
_IMAGE_SIZE = 224
SD2_CONTEXT = 1024


@dataclass(frozen=True)
class Backbone:
    """The image model whose features an encoder reads.

    kind         what messages call it
    fingerprint  fingerprint.weights_fingerprint of its state dict; "" where the encoder's file does
                 not tell: then the image model is known by its shape alone, feature_dim and
                 image_size
    layer        which output is read; "last_hidden_state" holds all tokens before pooling
    image_size   edge of its input in pixels
    feature_dim  width of its features; 0 = unknown
    """

    kind: str
    fingerprint: str
    image_size: int
    layer: str = "last_hidden_state"
    feature_dim: int = 0

    def __post_init__(self) -> None:
        if self.layer != "last_hidden_state":
            raise NestedAttentionError(
                f'The encoder reads the layer "{self.layer}" of its image model; this version '
                "knows only last_hidden_state, so update the pack."
            )
        if type(self.image_size) is not int or self.image_size < 1:
            raise NestedAttentionError(
                f"The encoder's image size is {self.image_size!r}; it must be a whole number of "
                "pixels."
            )
        if type(self.feature_dim) is not int or self.feature_dim < 0:
            raise NestedAttentionError(
                f"The width of the encoder's image features is {self.feature_dim!r}; it must be a "
                "whole number, or 0 where it is not known."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not known is left out, as in files of earlier versions."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("feature_dim", 0)}


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data[name]
    if not isinstance(found, Mapping):
        raise TypeError(f'"{name}" is no table')
    return found


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder's file says about the encoder.

    base_family  one of BASE_FAMILIES
    domain       what it was trained on; class_word what the text encoders read for a subject
    norm         length of v* that it was trained with
    token_weight what multiplied the odds of the subject's token while it was trained
    extra        whatever else the file says, in JSON's types
    placeholder  text stream ("l", "g") -> width of the embedding that the file holds for it, which
                 the text encoders read in place of the class word's own; empty without one
    """

    base_family: str
    config: EncoderConfig
    backbone: Backbone
    domain: str
    class_word: str
    norm: NormControl = NormControl()
    token_weight: float = 1.0
    licence: str = ""
    trained_on: str = ""
    command: str = ""
    steps: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = 1
    placeholder: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base_family not in BASE_FAMILIES:
            raise NestedAttentionError(
                f'The encoder is for the base family "{self.base_family}"; this version knows '
                f"{', '.join(BASE_FAMILIES)}, so update the pack."
            )
        weight = self.token_weight
        if not isinstance(weight, (int, float)) or not (math.isfinite(weight) and weight > 0):
            raise NestedAttentionError(
                f"The encoder's token weight is {weight!r}; it must be a finite number above 0."
            )
        for name in ("domain", "class_word"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise NestedAttentionError(
                    f"The encoder's {name} is {getattr(self, name)!r}; give a word, for example "
                    "person."
                )
        for stream, width in self.placeholder.items():
            if not stream.isidentifier() or type(width) is not int or width < 1:
                raise NestedAttentionError(
                    f"The encoder's placeholder is {dict(self.placeholder)!r}; a width above 0 for "
                    "each text stream is needed."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        written = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        if not self.placeholder:
            del written["placeholder"]
        return {
            **self.extra,
            **written,
            "format_version": 2 if self.placeholder else self.format_version,
            "config": self.config.to_dict(),
            "backbone": self.backbone.to_dict(),
            "norm": asdict(self.norm),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderInfo:
        """Inverse of to_dict; raises NestedAttentionError for what it cannot read."""
        known = {f.name for f in fields(cls)} - {"extra"}
        plain = {name: data[name] for name in known & data.keys()}
        try:
            plain["config"] = EncoderConfig.from_dict(data["config"])
            plain["backbone"] = Backbone(**_table(data, "backbone"))
            plain["norm"] = NormControl(**_table({"norm": {}, **data}, "norm"))
            extra = {name: value for name, value in data.items() if name not in known}
            return cls(**plain, extra=extra)
        except (KeyError, TypeError, AttributeError) as error:
            raise NestedAttentionError(
                f"The encoder's description cannot be read ({error}); get the file again."
            ) from error


def save_encoder(
    path: str | Path,
    encoder: NestedEncoder,
    info: EncoderInfo,
    dtype: torch.dtype | None = None,
    placeholder: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes an encoder's file, in `dtype` if one is given; an interruption leaves no half file.

    placeholder: an embedding (width,) for each text stream that `info.placeholder` names

    Raises NestedAttentionError if a weight is not finite (in that dtype) or if `info` describes
    another encoder.
    """
    if info.config != encoder.config:
        raise NestedAttentionError(
            "The description's configuration is not the encoder's; build it from encoder.config."
        )
    path = Path(path)
    state = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in (
            *encoder.state_dict().items(),
            *((_PLACEHOLDER + stream, vector) for stream, vector in (placeholder or {}).items()),
        )
    }
    if {s: len(v) for s, v in (placeholder or {}).items()} != dict(info.placeholder):
        raise NestedAttentionError(
            "The description's placeholder is not the one given; name each stream and its width."
        )
    _refuse_non_finite("The encoder", state, "train it again from an earlier state")
    save_whole(path, state, {METADATA_KEY: json.dumps(info.to_dict())})


def read_info(path: str | Path) -> EncoderInfo:
    """What a file says about its encoder; reads no tensor.

    Raises NestedAttentionError, in one sentence, for a file that load_encoder would refuse, save
    for damaged numbers.
    """
    path = Path(path)
    return _described(path, read_header(path))[0]


def load_placeholder(path: str | Path) -> dict[str, Tensor]:
    """The trained embedding (width,) of each text stream, fp32; empty where the file has none."""
    info = read_info(path)
    if not info.placeholder:
        return {}
    with safe_open(path, "pt") as file:
        found = {s: file.get_tensor(_PLACEHOLDER + s).float() for s in info.placeholder}
    _refuse_non_finite(f'"{Path(path).name}"', found, "download or copy it again")
    return found


def load_encoder(
    path: str | Path,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[NestedEncoder, EncoderInfo]:
    """The encoder, in evaluation mode, and its description; `dtype` None keeps the file's.

    Raises NestedAttentionError in one sentence: what the file is, what is needed, where it goes.
    """
    path = Path(path)
    info, sources = _described(path, read_header(path))
    try:
        with safe_open(path, "pt", device="cpu") as file:
            state = {name: cut(file.get_tensor(s.name), s) for name, s in sources.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise NestedAttentionError(
            f'"{path.name}" is a damaged safetensors file ({error}); download or copy it again.'
        ) from error
    state = {name: tensor.to(device, dtype or tensor.dtype) for name, tensor in state.items()}
    _refuse_non_finite(f'"{path.name}"', state, "download or copy it again")
    # On "meta", so that no weight is drawn only to be overwritten.
    encoder = NestedEncoder(info.config, operations, dtype, device="meta")
    encoder.load_state_dict(state, assign=True)
    return encoder.eval(), info


def read_release(path: str | Path) -> Reading | None:
    """How a file without a description of ours is read; None for one that describes itself.

    Raises NestedAttentionError as read_info does.
    """
    path = Path(path)
    header = read_header(path)
    return None if METADATA_KEY in header.metadata else _read_release(path, header)


def _read_release(path: Path, header: Header) -> Reading:
    reading = read_structure(path, header)
    if reading is None:
        raise NestedAttentionError(_not_ours(path, header))
    return reading


def _described(path: Path, header: Header) -> tuple[EncoderInfo, Mapping[str, Source]]:
    """What a file says of its encoder, or its structure tells, and where each tensor lies."""
    if METADATA_KEY not in header.metadata:
        reading = _read_release(path, header)
        return _release_info(path, reading), reading.sources
    info = _parse_info(path, header)
    _check_tensors(path, header, info)
    own = (name for name in header.tensors if not name.startswith(_PLACEHOLDER))
    return info, {name: Source(name) for name in own}


def _release_info(path: Path, reading: Reading) -> EncoderInfo:
    width, told = reading.config.feature_dim, reading.mapping
    kind = _IMAGE_MODELS.get(width, f"an image model with features of width {width}")
    class_word = told.class_word or "person"
    try:
        return EncoderInfo(
            base_family=_family(reading),
            config=reading.config,
            backbone=Backbone(kind, "", told.image_size or _IMAGE_SIZE, feature_dim=width),
            domain=told.domain or class_word,
            class_word=class_word,
            # What the authors' demo passes (vq_normalize_factor, special_token_weight).
            norm=NormControl("text", 2.0),
            token_weight=1.0,
        )
    except NestedAttentionError as error:
        raise NestedAttentionError(f'"{path.name}": {error}') from error


def _family(reading: Reading) -> str:
    """SD2 has the sites of SD1.5, and another width of its text context."""
    is_sd2 = reading.family == "sd15" and reading.config.token_dim == SD2_CONTEXT
    return "sd2" if is_sd2 else reading.family


def _parse_info(path: Path, header: Header) -> EncoderInfo:
    try:
        data = json.loads(header.metadata[METADATA_KEY])
        version = data["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NestedAttentionError(_undescribed(path)) from error
    if type(version) is not int or version < 1:
        raise NestedAttentionError(_undescribed(path))
    if version > FORMAT_VERSION:
        raise NestedAttentionError(
            f'"{path.name}" is a nested encoder of format {version}, and this version of the pack '
            f"reads up to format {FORMAT_VERSION}; update the pack."
        )
    try:
        return EncoderInfo.from_dict(data)
    except NestedAttentionError as error:
        raise NestedAttentionError(f'"{path.name}": {error}') from error


def _not_ours(path: Path, header: Header) -> str:
    if any(name.startswith("resampler.") for name in header.tensors):
        return _undescribed(path)
    kind = recognise(header.tensors)
    if kind is None:
        return f'"{path.name}" is a safetensors file, but of no kind known; {NEEDED}.'
    return f'"{path.name}" is {kind.name}, so {kind.place}; {NEEDED}.'


def _undescribed(path: Path) -> str:
    return (
        f'"{path.name}" has lost the description that a nested encoder carries in its metadata; '
        "get the original file, as no other tool saved it."
    )


def _check_tensors(path: Path, header: Header, info: EncoderInfo) -> None:
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in NestedEncoder(info.config, device="meta").state_dict().items()
    }
    expected |= {_PLACEHOLDER + stream: (width,) for stream, width in info.placeholder.items()}
    advice = "download or copy it again"
    for name in sorted(expected.keys() | header.tensors.keys()):
        if name not in header.tensors:
            problem = f"the tensor {name} is missing"
        elif name not in expected:
            problem = f"the tensor {name} has no place in it"
        elif header.tensors[name][1] != expected[name]:
            shape = header.tensors[name][1]
            problem = f"the tensor {name} has shape {shape}, not {expected[name]}"
        elif header.tensors[name][0] not in FLOATING:
            problem = f"the tensor {name} is {header.tensors[name][0]}, not a floating number"
        else:
            continue
        raise NestedAttentionError(
            f'"{path.name}" does not fit its own description: {problem}; {advice}.'
        )


def _refuse_non_finite(what: str, state: Mapping[str, Tensor], advice: str) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NestedAttentionError(
                f"{what} holds NaN or infinite numbers, first in {name}; {advice}."
            )
