"""Sample sheets of a training: subjects in rows, prompts in columns, by the host's own sampler."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...nested_attn_core.checkpoint import EncoderInfo
from ...nested_attn_core.encoder import NestedEncoder
from ...nested_attn_core.subject import Subject, Subjects
from .binding import bind_model
from .frozen import PLACEHOLDER, FrozenModels
from .memory import LoadedEncoder, in_patcher
from .text import bind_clip
from .vision import image_features

_LETTER, _LINE = 6, 12  # pixels of the heads' font


@dataclass(frozen=True)
class SheetSettings:
    """Prompts with <subject> in them; size in pixels, steps and guidance of the sampler."""

    prompts: Sequence[str]
    size: int
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0


def encoder_in_host(
    info: EncoderInfo,
    weights: Mapping[str, Tensor],
    label: str,
    placeholder: Mapping[str, Tensor] | None = None,
) -> LoadedEncoder:
    """An encoder of the host from weights by name ("resampler...", "projections...")."""
    encoder = NestedEncoder(info.config, comfy.ops.manual_cast, device="meta")
    encoder.load_state_dict(dict(weights), assign=True)
    patcher = in_patcher(encoder.eval().requires_grad_(False))
    return LoadedEncoder(patcher, info, label, placeholder or {})


@torch.no_grad()
def draw_sheet(
    frozen: FrozenModels,
    encoder: LoadedEncoder,
    references: Sequence[Tensor],
    settings: SheetSettings,
) -> Image.Image:
    """A row for each reference (1, H, W, 3): the reference, then one image for each prompt.

    The same seed everywhere, so that differences come from the subject and the prompt."""
    rows = []
    for reference in references:
        subject = _subject(frozen, encoder, reference)
        images = [_image(frozen, subject, prompt, settings) for prompt in settings.prompts]
        rows.append([_picture(reference[0]), *images])
    return _grid(rows, ["reference", *settings.prompts], settings.size)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes the sheet whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    sheet.save(unfinished, format="PNG")
    os.replace(unfinished, path)


def _subject(frozen: FrozenModels, encoder: LoadedEncoder, reference: Tensor) -> Subject:
    return encoder.subject(PLACEHOLDER, image_features(frozen.vision, encoder, reference))


def _image(
    frozen: FrozenModels, subject: Subject, prompt: str, settings: SheetSettings
) -> Image.Image:
    subjects = Subjects((subject,))
    model, clip = bind_model(frozen.model, subjects), bind_clip(frozen.clip, subjects)
    side = settings.size // frozen.downscale
    channels = frozen.model.model.latent_format.latent_channels
    latent = torch.zeros(1, channels, side, side)
    sampled = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, settings.seed),
        settings.steps,
        settings.guidance,
        "euler",
        "simple",
        _encode(clip, prompt),
        _encode(clip, ""),
        latent,
        disable_pbar=True,
        seed=settings.seed,
    )
    return _picture(frozen.vae.decode(sampled)[0])


def _encode(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)


def _picture(pixels: Tensor) -> Image.Image:
    array = (pixels.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(array[..., :3])


def _grid(rows: Sequence[Sequence[Image.Image]], heads: Sequence[str], size: int) -> Image.Image:
    """Columns under their prompts, which are broken where a column is too narrow for them."""
    broken = [textwrap.fill(head, max(8, size // _LETTER)) for head in heads]
    top = 2 + _LINE * max(head.count("\n") + 1 for head in broken)
    sheet = Image.new("RGB", (size * len(heads), top + size * len(rows)), "white")
    for column, head in enumerate(broken):
        room = Image.new("RGB", (size, top), "white")
        ImageDraw.Draw(room).multiline_text((2, 1), head, fill="black", spacing=2)
        sheet.paste(room, (column * size, 0))
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            sheet.paste(image.resize((size, size)), (column * size, top + row * size))
    return sheet
