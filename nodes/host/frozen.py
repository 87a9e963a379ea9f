"""The frozen models of a training, through the host's own loaders and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import folder_paths
import torch
from torch import Tensor

from ...nested_attn_core.checkpoint import Backbone
from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.fingerprint import content_fingerprint, weights_fingerprint
from ...nested_attn_core.subject import Subject, Subjects
from ...nested_attn_core.training.batches import Text
from .carrier import SLOTS
from .families import MINIATURE, base_family
from .mentions import subject_token
from .miniature import load_miniature
from .text import bind_clip

PLACEHOLDER = "subject"


@dataclass(frozen=True, eq=False)
class FrozenModels:
    """MODEL, CLIP, VAE and CLIP_VISION of the host, as nested_attn_core.training's Encoders.

    class_word   what the text encoders read where a caption says <subject>
    family       the base family of an encoder's file
    code         fingerprint of, and, what makes latents in place of the VAE, if anything does
    """

    model: Any
    clip: Any
    vae: Any
    vision: Any
    class_word: str
    family: str
    vision_name: str = "the CLIP Vision model of the training"
    code: tuple[str, Callable[[Tensor], Tensor]] | None = None

    @property
    def keys(self) -> Mapping[str, str]:
        """Fingerprints of "vae", "text" and "vision"; "text" changes with the class word."""
        return self._keys

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        text = weights_fingerprint(self.clip.patcher.model.state_dict())
        return {
            "vae": self._latents_key,
            "text": content_fingerprint([text, self.class_word]),
            "vision": self.backbone.fingerprint,
        }

    @property
    def _latents_key(self) -> str:
        if self.code is not None:
            return self.code[0]
        return weights_fingerprint(self.vae.first_stage_model.state_dict())

    @cached_property
    def backbone(self) -> Backbone:
        """What an encoder's file says about its image model."""
        return Backbone(
            kind=self.vision_name,
            fingerprint=weights_fingerprint(self.vision.model.state_dict()),
            image_size=int(getattr(self.vision, "image_size", 224)),
        )

    @property
    def downscale(self) -> int:
        """Pixels of a picture's edge for each of the latents'."""
        return int(self.vae.downscale_ratio)

    @property
    def native_size(self) -> int:
        """Edge in pixels of the pictures that the base was made for."""
        return {MINIATURE: 128, "sd15": 512, "sd2": 768, "sdxl": 1024}[self.family]

    @cached_property
    def _bound(self) -> Any:
        return self._bound_with({})

    def _bound_with(self, placeholder: Mapping[str, Tensor]) -> Any:
        subject = Subject(
            name=PLACEHOLDER,
            tokens=torch.zeros(1, 1),
            class_word=self.class_word,
            domain=self.class_word,
            encoder=None,
            encoder_fingerprint="",
            placeholder=placeholder,
        )
        return bind_clip(self.clip, Subjects((subject,)))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, H, W, 3), 0 to 1, to the denoiser's latents (B, C, h, w), fp32, CPU."""
        if self.code is not None:
            return _plain(self.code[1](images[..., :3]))
        encoded = self.vae.encode(images[..., :3])
        return _plain(self.model.model.process_latent_in(encoded))

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> list[Text]:
        """Captions with <subject> in them, as the nodes read prompts; fp32, CPU."""
        return [self._text(caption) for caption in captions]

    def _text(self, caption: str) -> Text:
        text = _read(self._bound, caption)
        pooled = None if text.pooled is None else _plain(text.pooled)
        return Text(_plain(text.context), text.positions, pooled)

    def text_with(self, captions: Sequence[str], placeholder: Mapping[str, Tensor]) -> list[Text]:
        """As `text`, with an embedding (width,) a stream at the subject's token, and open to
        gradients of it."""
        bound = self._bound_with(placeholder)
        with _saved_apart(self.clip.cond_stage_model):
            return [_read(bound, caption) for caption in captions]

    def class_embedding(self) -> dict[str, Tensor]:
        """The class word's own embedding (width,) by text stream, fp32, CPU.

        Raises NestedAttentionError for a class word of several tokens: there is one placeholder.
        """
        tokens = self._bound.tokenize(f"<{PLACEHOLDER}>")
        found = {}
        for stream, chunks in tokens.items():
            marked = [t for chunk in chunks for t, *_ in chunk if subject_token(t) is not None]
            if len(marked) != 1:
                raise NestedAttentionError(
                    f'method.train_placeholder needs a class word of one token, and "'
                    f'{self.class_word}" has {len(marked)}; set output.class_word to a shorter '
                    "word, or train_placeholder to false."
                )
            model = getattr(self.clip.cond_stage_model, f"clip_{stream}")
            table = model.transformer.get_input_embeddings().weight
            found[stream] = _plain(table[int(marked[0])])
        return found

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Reference pictures (B, H, W, 3), 0 to 1, to (B, L, d), fp32, CPU."""
        return _plain(self.vision.encode_image(images)["last_hidden_state"])

    @cached_property
    def feature_dim(self) -> int:
        """Width of the image model's features."""
        side = self.backbone.image_size
        return self.features(torch.full((1, side, side, 3), 0.5)).shape[-1]

    @torch.no_grad()
    def conditions(self, pooled: Tensor | None, height: int, width: int) -> Mapping[str, Tensor]:
        """What the denoiser takes beside the context, for pooled (B, p) and pictures of
        `height` x `width` pixels, as the host's model makes it for sampling."""
        made = self.conditions_with(pooled, height, width)
        return {name: _plain(value) for name, value in made.items()}

    def conditions_with(
        self, pooled: Tensor | None, height: int, width: int
    ) -> Mapping[str, Tensor]:
        """As `conditions`, open to gradients."""
        if pooled is None:
            return {}
        base = self.model.model
        made = base.encode_adm(
            pooled_output=pooled, height=height, width=width, device=pooled.device
        )
        return {} if made is None else {"y": made}


def load_frozen(
    checkpoint: str,
    clip_vision: str,
    class_word: str,
    dtype: torch.dtype | None = None,
    code: tuple[str, Callable[[Tensor], Tensor]] | None = None,
) -> FrozenModels:
    """The models of a training: names of the host's files, paths, or "miniature".

    dtype   of the denoiser's weights; None leaves it to the host
    code    see FrozenModels

    Raises NestedAttentionError where a file is missing or is no such model.
    """
    small = load_miniature() if MINIATURE in (checkpoint, clip_vision) else None
    if small is not None and checkpoint == MINIATURE:
        model, clip, vae = small.model, small.clip, small.vae
    else:
        model, clip, vae = _load_checkpoint(checkpoint, dtype)
    if small is not None and clip_vision == MINIATURE:
        vision, name = small.clip_vision, "the miniature's CLIP_VISION (Load Miniature)"
    else:
        path = _find("clip_vision", clip_vision)
        vision, name = _load_vision(path), f"the CLIP Vision model {path.name}"
    return FrozenModels(model, clip, vae, vision, class_word, base_family(model), name, code)


def _load_checkpoint(name: str, dtype: torch.dtype | None) -> tuple[Any, Any, Any]:
    path = _find("checkpoints", name)
    options = {} if dtype is None else {"dtype": dtype}
    try:
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
            str(path),
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            model_options=options,
        )
    except Exception as error:  # the host raises many kinds for a file that is none
        raise NestedAttentionError(
            f"{path.name} is no checkpoint that ComfyUI can load ({_first_line(error)}); set "
            "base.checkpoint to one with a UNet, its text encoders and its VAE."
        ) from error
    missing = [part for part, made in (("UNet", model), ("CLIP", clip), ("VAE", vae)) if not made]
    if missing:
        raise NestedAttentionError(
            f"{path.name} holds no {' and no '.join(missing)}; set base.checkpoint to a full "
            "checkpoint, with a UNet, its text encoders and its VAE."
        )
    return model, clip, vae


def _load_vision(path: Path) -> Any:
    try:
        vision, reason = comfy.clip_vision.load(str(path)), "its layout is not known"
    except Exception as error:  # as above
        vision, reason = None, _first_line(error)
    if vision is None:
        raise NestedAttentionError(
            f"{path.name} is no CLIP Vision model that ComfyUI can load ({reason}); set "
            "backbone.clip_vision to one."
        )
    return vision


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _find(folder: str, name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    found = folder_paths.get_full_path(folder, name)
    if found is None:
        raise NestedAttentionError(
            f'There is no file "{name}", and none of that name in ComfyUI\'s models/{folder}; give '
            "the path of a file, or put it there."
        )
    return Path(found)


def _read(clip: Any, caption: str) -> Text:
    found = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True, return_dict=True)
    carried = found.get("model_conds", {}).get(SLOTS)
    slots = [] if carried is None else carried.cond[0].tolist()
    pooled = found.get("pooled_output")
    return Text(
        found["cond"][0],
        tuple(row for subject, row, _ in slots if subject >= 0),
        None if pooled is None else pooled[0],
    )


def _saved_apart(module: torch.nn.Module) -> Any:
    """Keeps copies for the backward pass, save of weights: the host's text encoders add in place,
    which overwrites what autograd has kept."""
    own = {weight.untyped_storage().data_ptr() for weight in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in own else tensor.clone()

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _plain(tensor: Tensor) -> Tensor:
    # Tensors made in inference mode, as in a node, cannot take part in training.
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone()
