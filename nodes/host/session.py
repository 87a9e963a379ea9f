"""One training from its settings to the encoder's file, its card and its sheets."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...nested_attn_core.encoder import EncoderConfig
from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.training.accelerated import AcceleratedWorkers
from ...nested_attn_core.training.batches import Examples
from ...nested_attn_core.training.cards import write_card
from ...nested_attn_core.training.config import TrainingConfig
from ...nested_attn_core.training.data.dataset import TrainingData
from ...nested_attn_core.training.data.source import open_source
from ...nested_attn_core.training.drops import Drops
from ...nested_attn_core.training.progress import Reporter
from ...nested_attn_core.training.states import StateFolder, TrainingStopped, reason
from ...nested_attn_core.training.trainer import Listeners, Progress, Reached, Trainer, trained_in
from .learning import Learning, only_deterministic, part_of, write_encoder
from .sheets import SheetSettings, draw_sheet, encoder_in_host, save_sheet

log = logging.getLogger("nested_attention")


class Session:
    """A training that `config` describes.

    command   what to type for the same training, for the card
    home      folder of the settings file; the card's paths count from there
    latents   see Learning.load
    """

    def __init__(
        self,
        config: TrainingConfig,
        command: str,
        home: Path,
        latents: tuple[str, Callable[[Tensor], Tensor]] | None = None,
        cpu: bool = False,
    ):
        self.config = config
        self.command = command
        self.home = home
        self.workers = AcceleratedWorkers(config.run.precision, cpu)
        self._latents = latents
        self._stopped = False
        self._under_way = False

    def stop(self) -> None:
        """Asks the training to save and to end after the step it is in; raises KeyboardInterrupt
        where no step is under way, or when asked twice."""
        if not self._under_way or self._stopped:
            raise KeyboardInterrupt
        self._stopped = True

    def run(self) -> bool:
        """Trains and writes the encoder; whether it came to its end.

        Raises NestedAttentionError, in one sentence, where it cannot go on."""
        if self.config.run.deterministic:
            only_deterministic()
        data = self.data
        examples = self._prepared()
        step = self.learning.step()
        encoder = self._config_of(step)
        log.info("%.2f M weights train, on %s.", trained_in(step) / 1e6, self.trained_on)
        settings = self.learning.run_settings
        board = Path(self.config.run.folder, "tensorboard")
        wanted = self.config.run.tensorboard and self.workers.is_first
        reporter = Reporter(settings.steps, settings.batch, board if wanted else None)

        def on_step(progress: Progress) -> bool:
            self._under_way = True
            reporter.step(progress)
            return not self._stopped

        def on_sample(done: int, weights: dict[str, Tensor]) -> None:
            path = Path(self.config.run.folder, "sheets", f"step-{done:08d}.png")
            try:
                self._draw(weights, encoder, path)
            except OSError as error:  # a picture less is no reason to lose a training
                log.warning("The sheet %s cannot be written (%s).", path.name, reason(error))
            else:
                reporter.picture("sample sheet", path, done)

        trainer = Trainer(
            step,
            examples,
            settings,
            self.learning.optimiser_settings,
            self.workers,
            Listeners(reporter.start, on_step, on_sample),
        )
        try:
            weights = trainer.run()
        finally:
            reporter.close()
            data.close()
        complete = trainer.done == settings.steps
        if complete and self.workers.is_first:
            self._write(weights, encoder, trainer.reached)
        self.workers.wait()
        return complete

    def export(self) -> None:
        """Writes the encoder of the last saved state; raises NestedAttentionError without one."""
        settings = self.learning.run_settings
        assert settings.folder is not None
        state = StateFolder(settings.folder, settings.keep).load()
        if state is None:
            raise NestedAttentionError(
                f"There is no saved state in {settings.folder}; train first, without --export."
            )
        encoder = self._config_of(self.learning.step())
        reached = Reached(state["step"], state["loss"], state["seconds"])
        self._write(state["averaged"] or state["parameters"], encoder, reached)

    @cached_property
    def learning(self) -> Learning:
        return Learning.load(self.config, self._latents)

    @cached_property
    def data(self) -> TrainingData:
        """The pictures; looked through once by the first process, for all."""
        frozen = self.learning.frozen
        if not self.workers.is_first:
            self.workers.wait()
        source, problems = open_source(self.config)
        if self.workers.is_first:
            self.workers.wait()
            for problem in problems[:20]:
                log.warning("Left out: %s", problem)
            if len(problems) > 20:
                log.warning("... and %d more; --check lists all.", len(problems) - 20)
        return TrainingData(source, frozen, self.config, frozen.native_size)

    @property
    def trained_on(self) -> str:
        """The data in words."""
        data = self.data
        count = len({data.identities[row] for row in data.targets})
        kind = "drawn pictures" if self.config.data.source == "miniature" else "pictures"
        return f"{len(data.targets)} {kind} of {count} subjects"

    def _prepared(self) -> Examples:
        """The examples, with everything made that is kept; only what trains next stays loaded."""
        workers, objective, frozen = self.workers, self.config.objective, self.learning.frozen

        def told(kind: str, done: int, total: int) -> None:
            log.info("%s: %d of %d made and kept", kind, done, total)

        self.data.prepare(told, workers.rank, workers.count)
        workers.wait()
        self.data.refresh()
        examples = Drops(
            self.data,
            frozen,
            frozen.downscale,
            objective.drop_text,
            objective.drop_image,
            self.config.run.seed,
        )
        examples.prepare()
        _ = self.learning.frozen.feature_dim
        comfy.model_management.unload_all_models()
        # All at once, so that the host does not move the base away for another one later.
        comfy.model_management.load_models_gpu(self._needed_models(), force_full_load=True)
        return examples

    def _needed_models(self) -> list[Any]:
        """The base, and what makes features that are not kept or that change."""
        frozen, kept = self.learning.frozen, self.config.data.cache
        others = {
            "latents": frozen.vae.patcher,
            "vision": frozen.vision.patcher,
            "text": frozen.clip.patcher,
        }
        if self.config.method.train_placeholder:
            kept = tuple(kind for kind in kept if kind != "text")
        return [frozen.model, *(p for kind, p in others.items() if kind not in kept)]

    def _config_of(self, step: Any) -> EncoderConfig:
        return step.method.encoder.config

    def _references(self) -> list[Tensor]:
        """One picture (1, H, W, 3) of each subject on a sheet; kept-out ones if there are any."""
        subjects = self.data.subjects(True) or self.data.subjects(False)
        chosen = sorted(subjects)[: self.config.samples.subjects]
        return [self._pixels(subjects[name][0]) for name in chosen]

    def _pixels(self, row: int) -> Tensor:
        picture = np.asarray(self.data.source[row].image().convert("RGB"))
        return torch.from_numpy(picture.copy()).float()[None] / 255

    def _draw(self, weights: Mapping[str, Tensor], encoder: EncoderConfig, path: Path) -> None:
        frozen, samples = self.learning.frozen, self.config.samples
        placeholder = part_of(weights, "placeholder")
        info = self.learning.info(encoder, 0, self.trained_on, self.command, placeholder)
        settings = SheetSettings(
            samples.prompts,
            self.config.data.size or frozen.native_size,
            samples.steps,
            samples.guidance,
            self.config.run.seed,
        )
        name = self.config.output.name
        handle = encoder_in_host(info, part_of(weights, "encoder"), name, placeholder)
        save_sheet(draw_sheet(frozen, handle, self._references(), settings), path)
        # The host may have moved the base to make room for what drew the sheet.
        comfy.model_management.load_models_gpu(self._needed_models(), force_full_load=True)

    def _write(
        self, weights: Mapping[str, Tensor], encoder: EncoderConfig, reached: Reached
    ) -> None:
        folder, name = Path(self.config.output.folder), self.config.output.name
        placeholder = part_of(weights, "placeholder")
        info = self.learning.info(encoder, reached.step, self.trained_on, self.command, placeholder)
        path = folder / f"{name}.safetensors"
        sheet, card = folder / f"{name}.png", folder / f"{name}.md"
        try:
            write_encoder(path, weights, info)
            self._draw(weights, encoder, sheet)
            write_card(card, info, self._settings(), self._figures(reached), sheet.name)
        except (OSError, SafetensorError) as error:
            raise TrainingStopped(
                f"The encoder, its sheet or its card cannot be written to {folder} "
                f"({reason(error)}); the training is done and its last state is kept: free some "
                "space there, or set output.folder, and run the same command with --export."
            ) from error
        log.info("Written: %s, with its card and its sheet.", path)

    def _settings(self) -> dict[str, Any]:
        """The settings with paths as someone else could use them."""

        def shown(value: Any) -> Any:
            if isinstance(value, str) and os.path.isabs(value):
                return Path(os.path.relpath(value, self.home)).as_posix()
            return value

        return {
            section: {key: shown(value) for key, value in values.items()}
            for section, values in self.config.to_dict().items()
        }

    def _figures(self, reached: Reached) -> dict[str, Any]:
        batch = self.config.run.batch
        return {
            "steps": reached.step,
            "examples a step": batch,
            "processes": self.workers.count,
            "loss, smoothed": reached.loss,
            "hours": reached.seconds / 3600,
            "images per second": reached.step * batch / max(reached.seconds, 1e-9),
        }
