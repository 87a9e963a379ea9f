"""A training as its settings describe it: the host's frozen models, and what is to be trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ...nested_attn_core.attention import NormControl
from ...nested_attn_core.checkpoint import (
    EncoderInfo,
    load_encoder,
    load_placeholder,
    save_encoder,
)
from ...nested_attn_core.encoder import EncoderConfig, NestedEncoder
from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.training.config import TrainingConfig
from ...nested_attn_core.training.identity import IdentityLoss
from ...nested_attn_core.training.methods import NestedMethod
from ...nested_attn_core.training.objective import Noising
from ...nested_attn_core.training.optimisers import OptimiserSettings
from ...nested_attn_core.training.placeholder import TrainedPlaceholder
from ...nested_attn_core.training.step import TrainingStep
from ...nested_attn_core.training.trainer import RunSettings
from .checkpointing import checkpoint_blocks
from .fresh import Projections, encoder_sizes, fresh_encoder
from .frozen import FrozenModels, load_frozen
from .identity import identity_loss
from .sites import site_projections
from .training import FrozenDenoiser

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Learning:
    """What a training needs of the host; `latents` replaces the VAE where it is given."""

    config: TrainingConfig
    frozen: FrozenModels

    @classmethod
    def load(
        cls,
        config: TrainingConfig,
        latents: tuple[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> Learning:
        """Loads the frozen models; raises NestedAttentionError where one cannot be had.

        latents   a fingerprint and a function that take the place of the VAE's encoder
        """
        frozen = load_frozen(
            config.base.checkpoint,
            config.backbone.clip_vision,
            config.class_word,
            DTYPES[config.run.precision],
            latents,
        )
        return cls(config, frozen)

    @cached_property
    def denoiser(self) -> FrozenDenoiser:
        """The base, on its device, with the patch of the nodes on every site."""
        model = self.frozen.model
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        denoiser = FrozenDenoiser(model)
        if self.config.run.checkpointing:
            checkpoint_blocks(model.model.diffusion_model)
        if self.config.run.compile:
            denoiser.compile()
        return denoiser

    @cached_property
    def projections(self) -> Projections:
        """The base's own (to_k, to_v) by site."""
        return site_projections(self.frozen.model.model.diffusion_model)

    @property
    def sizes(self) -> EncoderConfig:
        """The encoder's, for these frozen models."""
        wanted = self.config.encoder
        return encoder_sizes(
            self.projections,
            self.denoiser.sites,
            feature_dim=self.frozen.feature_dim,
            tokens=wanted.tokens,
            width=wanted.width,
            depth=wanted.depth,
            heads=wanted.heads,
            ff_mult=wanted.ff_mult,
        )

    def encoder(self) -> NestedEncoder:
        """The encoder as it starts, fp32."""
        wanted = self.config.encoder
        if wanted.resume_from:
            return _begun(Path(wanted.resume_from), self.sizes)
        begin = self.projections if wanted.initialise == "text" else None
        return fresh_encoder(self.sizes, self.config.run.seed, begin)

    @property
    def noising(self) -> Noising:
        """How noise levels are drawn and weighed."""
        wanted = self.config.objective
        return Noising(wanted.sigma, wanted.sigma_shift, wanted.sigma_scale, wanted.min_snr)

    def step(self) -> TrainingStep:
        """What trains, with the base around it."""
        self.check_method()
        method = self.config.method
        return TrainingStep(
            NestedMethod(self.encoder(), self.norm, method.token_weight, self._placeholder()),
            self.denoiser,
            self.noising,
            self.config.objective.mask_weight,
            self._identity(),
        )

    def check_method(self) -> None:
        """Raises NestedAttentionError for a method that an encoder's file cannot hold."""
        method = self.config.method
        if method.name != "nested":
            raise NestedAttentionError(
                f'method.name is "{method.name}", which has no encoder\'s file; set it to nested.'
            )

    def _placeholder(self) -> TrainedPlaceholder | None:
        begun = self.config.encoder.resume_from
        start = load_placeholder(begun) if begun else {}
        if not self.config.method.train_placeholder:
            if start:
                raise NestedAttentionError(
                    f"encoder.resume_from is {Path(begun).name}, which was trained with a "
                    "placeholder of its own; set method.train_placeholder to true."
                )
            return None
        frozen = self.frozen
        return TrainedPlaceholder(start or frozen.class_embedding(), frozen, frozen.downscale)

    def _identity(self) -> IdentityLoss | None:
        wanted = self.config.objective
        if not wanted.identity_weight:
            return None
        return identity_loss(
            self.frozen,
            self.denoiser.schedule,
            wanted.identity_embedder,
            wanted.identity_weight,
            wanted.identity_max_noise,
        )

    @property
    def norm(self) -> NormControl:
        method = self.config.method
        return NormControl(method.norm, method.norm_factor)

    @property
    def run_settings(self) -> RunSettings:
        run = self.config.run
        return RunSettings(
            steps=run.steps,
            batch=run.batch,
            accumulate=run.accumulate,
            ema=run.ema,
            seed=run.seed,
            save_every=run.save_every,
            keep=run.keep,
            sample_every=run.sample_every,
            threads=self.config.data.threads,
            folder=Path(run.folder, "states"),
        )

    @property
    def optimiser_settings(self) -> OptimiserSettings:
        wanted = self.config.optimiser
        return OptimiserSettings(**wanted.model_dump())

    def info(
        self,
        config: EncoderConfig,
        steps: int,
        trained_on: str,
        command: str,
        placeholder: Mapping[str, Tensor],
    ) -> EncoderInfo:
        """What the encoder's file says."""
        output = self.config.output
        return EncoderInfo(
            base_family=self.frozen.family,
            config=config,
            backbone=self.frozen.backbone,
            domain=output.domain,
            class_word=self.config.class_word,
            norm=self.norm,
            token_weight=self.config.method.token_weight,
            licence=output.licence,
            trained_on=trained_on,
            command=command,
            steps=steps,
            placeholder={stream: len(vector) for stream, vector in placeholder.items()},
        )


def part_of(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Of a method's weights those of "encoder" or of "placeholder", under their own names."""
    prefix = f"{part}."
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


def write_encoder(path: Path, weights: Mapping[str, Tensor], info: EncoderInfo) -> NestedEncoder:
    """Writes the method's weights ("encoder.resampler...") as an encoder's file, in fp16."""
    encoder = NestedEncoder(info.config, device="meta")
    encoder.load_state_dict(part_of(weights, "encoder"), assign=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(path, encoder, info, torch.float16, part_of(weights, "placeholder"))
    return encoder


def only_deterministic() -> None:
    """Lets torch refuse kernels whose result may differ from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def _begun(path: Path, sizes: EncoderConfig) -> NestedEncoder:
    encoder, info = load_encoder(path, dtype=torch.float32)
    if info.config != sizes:
        raise NestedAttentionError(
            f"encoder.resume_from is {path.name}, whose sizes or sites are not those of this "
            "training; set [encoder] as in its card, or leave resume_from empty."
        )
    return encoder.train().requires_grad_(True)
