"""Nested encoders in the care of the host's memory manager."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...nested_attn_core.checkpoint import (
    EncoderInfo,
    load_encoder,
    load_placeholder,
    read_release,
)
from ...nested_attn_core.fingerprint import weights_fingerprint
from ...nested_attn_core.release.report import summary
from ...nested_attn_core.subject import Subject
from .versions import patcher_class

log = logging.getLogger("nested_attention")

KeysValues = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """An encoder whose weights the host moves, offloads and frees. ``label`` is for messages,
    ``placeholder`` an embedding (width,) for each text stream, where the file has them."""

    patcher: Any
    info: EncoderInfo
    label: str
    placeholder: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights."""
        return weights_fingerprint({**self.patcher.model.state_dict(), **self.placeholder})

    def load(self) -> None:
        """Asks the host to make room for the weights and to bring them to their device."""
        comfy.model_management.load_models_gpu([self.patcher])

    @torch.no_grad()
    def tokens(self, features: Tensor) -> Tensor:
        """Image features (B, L, feature_dim) to nested tokens (B, tokens, token_dim), fp32, CPU."""
        self.load()
        device = self.patcher.load_device
        return self.patcher.model(features.to(device, torch.float32)).to("cpu")

    def subject(self, name: str, features: Tensor) -> Subject:
        """What prompts call ``name``: all tokens of the image features (B, L, feature_dim)."""
        return Subject(
            name=name,
            tokens=self.tokens(features).flatten(0, 1),
            class_word=self.info.class_word,
            domain=self.info.domain,
            encoder=self,
            encoder_fingerprint=self.fingerprint,
            norm=self.info.norm,
            token_weight=self.info.token_weight,
            placeholder=self.placeholder,
        )

    @torch.no_grad()
    def keys_values(self, tokens: Tensor, device: torch.device, dtype: torch.dtype) -> KeysValues:
        """Nested tokens (n, token_dim) to {site: (keys, values)}, each (1, n, width)."""
        projected = self.patcher.model.keys_values(tokens[None].to(device, torch.float32))
        return {site: (key.to(dtype), value.to(dtype)) for site, (key, value) in projected.items()}


def load(path: str | Path, label: str) -> LoadedEncoder:
    """Reads an encoder's file; raises NestedAttentionError in one sentence for any other file.

    The log says of a file without a description of ours how it was read.
    """
    encoder, info = load_encoder(path, comfy.ops.manual_cast, device="cpu")
    reading = read_release(path)
    if reading is not None:
        log.info(summary(label, reading))
    patcher = in_patcher(encoder.requires_grad_(False))
    # Most files have none, and need not be described a second time for it.
    placeholder = load_placeholder(path) if info.placeholder else {}
    return LoadedEncoder(patcher, info, label, placeholder)


def in_patcher(model: nn.Module) -> Any:
    """A model of ours in the host's patcher."""
    return patcher_class()(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
