"""A training inside a graph: on the sockets' models, with the host's progress bar and interrupt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...nested_attn_core.attention import NormControl
from ...nested_attn_core.checkpoint import EncoderInfo, save_encoder
from ...nested_attn_core.encoder import NestedEncoder
from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.file_names import SUFFIX, file_stem
from ...nested_attn_core.pictures import check_masks
from ...nested_attn_core.training.in_memory import FewPictures
from ...nested_attn_core.training.methods import NestedMethod
from ...nested_attn_core.training.objective import Noising
from ...nested_attn_core.training.optimisers import OptimiserSettings
from ...nested_attn_core.training.step import TrainingStep
from ...nested_attn_core.training.trainer import Listeners, Progress, RunSettings, Trainer
from ...nested_attn_core.training.workers import Workers
from .checkpointing import checkpoint_blocks, release_blocks
from .families import base_family
from .files import FOLDER
from .fresh import encoder_sizes, fresh_encoder
from .frozen import FrozenModels
from .memory import LoadedEncoder
from .sheets import encoder_in_host
from .sites import site_projections
from .subject_files import reserved
from .training import FrozenDenoiser
from .vision import SMALLEST_SIDE

log = logging.getLogger("nested_attention")


@dataclass(frozen=True)
class Wishes:
    """What the node asks for; sizes as in EncoderConfig, `start` an encoder to go on from."""

    class_word: str
    steps: int
    batch: int
    rate: float
    seed: int
    tokens: int
    width: int
    depth: int
    token_weight: float
    checkpointing: bool
    start: LoadedEncoder | None = None


def train_in_graph(
    model: Any,
    clip: Any,
    vae: Any,
    vision: Any,
    images: Tensor,
    captions: Sequence[str],
    identities: Sequence[str],
    masks: Tensor | None,
    wishes: Wishes,
) -> tuple[LoadedEncoder, list[float]]:
    """The trained encoder, and the loss of each step.

    Raises NestedAttentionError, in one sentence, for what cannot be trained on, and the host's
    own exception where the user interrupts."""
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        raise NestedAttentionError(
            f"The pictures are {images.shape[2]} x {images.shape[1]} pixels, too small to train "
            f"on; give at least {SMALLEST_SIDE} x {SMALLEST_SIDE}."
        )
    images = images[..., :3].float()
    if masks is not None:
        check_masks(masks, "batch of masks")
        masks = masks.reshape(-1, *masks.shape[-2:]).float()
    # The host runs its nodes where no gradient can be taken.
    with torch.inference_mode(False), torch.enable_grad():
        frozen = FrozenModels(
            model, clip, vae, vision, wishes.class_word, base_family(model), "the CLIP Vision model"
        )
        images = images.clone()
        pictures = FewPictures(
            frozen,
            images,
            captions,
            identities,
            wishes.class_word,
            wishes.batch,
            wishes.seed,
            None if masks is None else masks.clone(),
        )
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        unet = model.model.diffusion_model
        _make_differentiable(unet)
        if wishes.checkpointing:
            checkpoint_blocks(unet)
        try:
            return _train(frozen, pictures, wishes)
        finally:
            release_blocks(unet)


def path_for(name: str) -> Path:
    """The file of that name in the host's models/nested_attention."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0]) / f"{file_stem(name)}{SUFFIX}"


def save_trained(encoder: LoadedEncoder, path: Path) -> None:
    """Writes an encoder, in fp16; a name that is taken gets a number. Where it cannot be written
    the log says so, as an exception would lose the training."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with reserved(path.parent, path.stem) as free:
            save_encoder(free, encoder.patcher.model, encoder.info, torch.float16)
        log.info("The encoder is saved as models/%s/%s.", FOLDER, free.name)
    except (OSError, SafetensorError) as error:
        log.error(
            "The encoder cannot be saved as models/%s/%s (%s); it lasts until its node runs again.",
            FOLDER,
            path.name,
            getattr(error, "strerror", None) or error,
        )


def _train(
    frozen: FrozenModels, pictures: FewPictures, wishes: Wishes
) -> tuple[LoadedEncoder, list[float]]:
    denoiser = FrozenDenoiser(frozen.model)
    encoder = _encoder(frozen, pictures.feature_dim, denoiser, wishes)
    norm = NormControl() if wishes.start is None else wishes.start.info.norm
    losses: list[float] = []
    bar = comfy.utils.ProgressBar(wishes.steps)

    def on_step(progress: Progress) -> None:
        losses.append(progress.last_loss)
        bar.update(1)
        comfy.model_management.throw_exception_if_processing_interrupted()

    trainer = Trainer(
        TrainingStep(
            NestedMethod(encoder, norm, wishes.token_weight), denoiser, Noising(), mask_weight=1.0
        ),
        pictures,
        RunSettings(wishes.steps, wishes.batch, seed=wishes.seed, threads=0),
        OptimiserSettings(rate=wishes.rate, warmup=min(50, wishes.steps // 10)),
        Workers(frozen.model.load_device),
        Listeners(on_step=on_step),
    )
    weights = trainer.run()
    info = EncoderInfo(
        base_family=frozen.family,
        config=encoder.config,
        backbone=frozen.backbone,
        domain=wishes.class_word,
        class_word=wishes.class_word,
        norm=norm,
        token_weight=wishes.token_weight,
        trained_on="pictures in a graph",
        command="Train Nested Encoder",
        steps=wishes.steps,
    )
    state = {name.removeprefix("encoder."): weight for name, weight in weights.items()}
    return encoder_in_host(info, state, "trained in the graph"), losses


def _encoder(
    frozen: FrozenModels, feature_dim: int, denoiser: FrozenDenoiser, wishes: Wishes
) -> NestedEncoder:
    if wishes.start is None:
        projections = site_projections(frozen.model.model.diffusion_model)
        sizes = encoder_sizes(
            projections,
            denoiser.sites,
            feature_dim=feature_dim,
            tokens=wishes.tokens,
            width=wishes.width,
            depth=wishes.depth,
            heads=max(1, wishes.width // 64),
            ff_mult=4,
        )
        return fresh_encoder(sizes, wishes.seed, projections)
    if wishes.start.info.config.sites != denoiser.sites:
        raise NestedAttentionError(
            f"The encoder {wishes.start.label} was made for another base model than the connected "
            "one; connect a model of its family, or leave the encoder out to start anew."
        )
    if wishes.start.info.config.feature_dim != feature_dim:
        raise NestedAttentionError(
            f"The encoder {wishes.start.label} reads images through "
            f"{wishes.start.info.backbone.kind}; connect that CLIP Vision model, or leave the "
            "encoder out to start anew."
        )
    if wishes.start.placeholder:
        raise NestedAttentionError(
            f"The encoder {wishes.start.label} was trained with a placeholder of its own, which "
            "this node does not train; go on with dev.py train and encoder.resume_from, or leave "
            "the encoder out to start anew."
        )
    # Copies, so that the encoder that was given stays as it is.
    encoder = NestedEncoder(wishes.start.info.config)
    state = wishes.start.patcher.model.state_dict()
    encoder.load_state_dict({name: weight.float().cpu() for name, weight in state.items()})
    return encoder


def _make_differentiable(module: nn.Module) -> None:
    """Puts equal weights in place of those that a loader node made where no gradient can pass."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = nn.Parameter(parameter.detach().clone(), False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()
