"""The file of a saved subject: one safetensors file that describes itself.

The tensor "nested_tokens" is (n, token_dim); the metadata key "nested_attention_subject" holds the
rest as JSON. Strength, range, mask and layer weights belong to a picture and are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .attention import NormControl
from .errors import NestedAttentionError
from .file_kinds import SUBJECT_NEEDED, read_header, recognise
from .subject import Subject
from .whole_files import save_whole

FORMAT_VERSION = 1
METADATA_KEY = "nested_attention_subject"
TENSOR = "nested_tokens"
_AGAIN = "save the subject again, or copy its file again"
_TEXTS = ("name", "class_word", "domain", "encoder_fingerprint", "encoder_label", "licence")


@dataclass(frozen=True, eq=False)
class SavedSubject:
    """What a subject's file holds.

    tokens              nested tokens (n, token_dim), floating
    encoder_fingerprint of the weights of the encoder that made the tokens
    encoder_label       what that encoder was called, for messages
    licence             of that encoder; what may be done with pictures of the subject is not in it
    """

    name: str
    class_word: str
    domain: str
    encoder_fingerprint: str
    encoder_label: str
    tokens: Tensor
    norm: NormControl = NormControl()
    token_weight: float = 1.0
    licence: str = ""

    @classmethod
    def of(cls, subject: Subject) -> SavedSubject:
        """What a file keeps of a subject, whose encoder has a label and an info with a licence."""
        return cls(
            name=subject.name,
            class_word=subject.class_word,
            domain=subject.domain,
            encoder_fingerprint=subject.encoder_fingerprint,
            encoder_label=subject.encoder.label,
            tokens=subject.tokens,
            norm=subject.norm,
            token_weight=subject.token_weight,
            licence=subject.encoder.info.licence,
        )

    def with_encoder(self, encoder: Any, name: str | None = None) -> Subject:
        """The subject, for use with the encoder that made it; `name` None keeps the file's.

        Raises NestedAttentionError for another encoder.
        """
        width = encoder.info.config.token_dim
        if encoder.fingerprint != self.encoder_fingerprint or self.tokens.shape[1] != width:
            raise NestedAttentionError(
                f"The subject <{self.name}> was made by the encoder {self.encoder_label} "
                f"({self.encoder_fingerprint[:8]}), and the connected one is {encoder.label} "
                f"({encoder.fingerprint[:8]}); connect the encoder that made it, or encode its "
                "images again."
            )
        return Subject(
            name=name or self.name,
            tokens=self.tokens,
            class_word=self.class_word,
            domain=self.domain,
            encoder=encoder,
            encoder_fingerprint=self.encoder_fingerprint,
            norm=self.norm,
            token_weight=self.token_weight,
            placeholder=encoder.placeholder,
        )


def save_subject(path: str | Path, saved: SavedSubject) -> None:
    """Writes a subject's file over `path`; an interruption leaves what was there."""
    path = Path(path)
    about = {f.name: getattr(saved, f.name) for f in fields(saved) if f.name != "tokens"}
    about |= {"norm": asdict(saved.norm), "format_version": FORMAT_VERSION}
    tokens = saved.tokens.detach().cpu().contiguous()
    save_whole(path, {TENSOR: tokens}, {METADATA_KEY: json.dumps(about)})


def load_subject(path: str | Path) -> SavedSubject:
    """What save_subject wrote.

    Raises NestedAttentionError in one sentence for every other file, known by its content.
    """
    path = Path(path)
    header = read_header(path, SUBJECT_NEEDED)
    if METADATA_KEY not in header.metadata:
        raise NestedAttentionError(_not_ours(path, header.tensors))
    about = _about(path, header.metadata[METADATA_KEY])
    if set(header.tensors) != {TENSOR}:
        raise NestedAttentionError(
            f'"{path.name}" does not hold the nested tokens that it describes; {_AGAIN}.'
        )
    try:
        tokens = load_file(path, device="cpu")[TENSOR]
    except (SafetensorError, OSError, ValueError) as error:
        raise NestedAttentionError(
            f'"{path.name}" is a damaged safetensors file ({error}); {_AGAIN}.'
        ) from error
    try:
        saved = SavedSubject(tokens=tokens, **about)
        # The same checks as for a subject that was just encoded.
        Subject(saved.name, tokens, saved.class_word, saved.domain, None, "", norm=saved.norm,
                token_weight=saved.token_weight)  # fmt: skip
    except (NestedAttentionError, TypeError, AttributeError) as error:
        detail = str(error).rstrip(".").replace('"', "'")
        raise NestedAttentionError(
            f'"{path.name}" holds a subject that cannot be used ({detail}); {_AGAIN}.'
        ) from error
    return saved


def _about(path: Path, text: str) -> dict[str, Any]:
    broken = f'The description in "{path.name}" cannot be read; {_AGAIN}.'
    try:
        data = json.loads(text)
        version = data.pop("format_version")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NestedAttentionError(broken) from error
    if type(version) is not int or version < 1:
        raise NestedAttentionError(broken)
    if version > FORMAT_VERSION:
        raise NestedAttentionError(
            f'"{path.name}" is a saved subject of format {version}, and this version of the pack '
            f"reads up to format {FORMAT_VERSION}; update the pack."
        )
    try:
        about = {name: data[name] for name in _TEXTS}
        about["norm"] = NormControl(**data["norm"])
        about["token_weight"] = float(data["token_weight"])
    except (KeyError, TypeError, ValueError) as error:
        raise NestedAttentionError(broken) from error
    if not all(isinstance(about[name], str) for name in _TEXTS):
        raise NestedAttentionError(broken)
    return about


def _not_ours(path: Path, tensors: Mapping[str, Any]) -> str:
    if TENSOR in tensors:
        return (
            f'"{path.name}" has lost the description that a saved subject carries in its '
            f"metadata; {_AGAIN}."
        )
    kind = recognise(tensors)
    if kind is None:
        return f'"{path.name}" is a safetensors file, but of no kind known; {SUBJECT_NEEDED}.'
    return f'"{path.name}" is {kind.name}, so {kind.place}; {SUBJECT_NEEDED}.'
