"""Trains the methods that nested attention is compared with, and nested attention like them.

Each with the settings of configs/miniature/DOMAIN.toml: the same pictures in the same order, the
same noise, the same steps. What is done already is left as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import pack
from methods import trained
from train_config import latents_of, logs

from .common import core, log

DOMAINS = ("person", "kitten")
CONFIGS = pack.ROOT / "configs" / "miniature"
SETTINGS = "settings.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = core("evaluation.baselines.registry").NAMES

    def methods(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: unknown; choose of {', '.join(names)}"
            )
        return chosen

    domains = core("training.miniature.identities").DOMAINS
    parser.description = __doc__
    parser.add_argument("--domain", choices=domains, help=f"one domain; else {', '.join(DOMAINS)}")
    parser.add_argument("--methods", type=methods, default=list(names), metavar="A,B,C")
    parser.add_argument("--steps", type=int, help="in place of the file's")
    parser.add_argument("--batch", type=int, help="in place of the file's")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="other such settings"
    )
    parser.add_argument("--folder", type=Path, default=trained.FOLDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    logs(True)
    for domain in [arguments.domain] if arguments.domain else DOMAINS:
        Comparison(domain, overrides(arguments), arguments.folder).run(arguments.methods)


def overrides(arguments: argparse.Namespace) -> list[str]:
    sizes = {"run.steps": arguments.steps, "run.batch": arguments.batch}
    return [f"{key}={value}" for key, value in sizes.items() if value] + arguments.set


class Comparison:
    """The methods of one domain; models, pictures and features are loaded once for all of them."""

    def __init__(self, domain: str, settings: list[str], folder: Path):
        self.domain = domain
        self.folder = folder
        self.config = pack.module("nested_attn_core.training.config_file").load_config(
            CONFIGS / f"{domain}.toml", settings
        )
        self.settings = settings_of(self.config)
        self._stopped = False

    def run(self, names: list[str]) -> None:
        for name in names:
            self.check_settings(name)
        open_ones = [name for name in names if not self.path(name).exists()]
        if len(open_ones) < len(names):
            log(f"{self.domain}: {len(names) - len(open_ones)} of {len(names)} methods are done")
        if not open_ones:
            return
        session = Session(self.config)
        for name in open_ones:
            with self.stopping():
                self.train(name, session)
            if self._stopped:
                raise SystemExit("Stopped, and saved; run the same command again to go on.")
        session.data.close()

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Lets a signal stop the training after the step that is under way."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda *_: self.stop()) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def stop(self) -> None:
        """After the step that is under way; asked twice, at once."""
        if self._stopped:
            raise KeyboardInterrupt
        self._stopped = True

    def path(self, name: str) -> Path:
        return trained.path_of(self.domain, name, self.folder)

    def check_settings(self, name: str) -> None:
        """Notes what a method is trained with; raises SystemExit where that was something else."""
        note = self.path(name).with_name(SETTINGS)
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
        elif json.loads(note.read_text(encoding="utf-8")) != self.settings:
            raise SystemExit(
                f"{note.parent} holds a training of {name} with other settings or another base; "
                f"give those in its {SETTINGS}, or move the folder away to train anew."
            )

    def train(self, name: str, session: Session) -> None:
        trainer, progress = core("training.trainer"), core("training.progress")
        run = self.config.run
        plan = session.plan()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            method = core("evaluation.baselines.registry").build(name, plan)
        log(f"{self.domain}, {name}: {sum(p.numel() for p in method.parameters())} weights")
        reporter = progress.Reporter(run.steps, run.batch)
        last = []

        def on_step(found: Any) -> bool:
            last[:] = [found]
            reporter.step(found)
            return not self._stopped

        training = trainer.Trainer(
            session.step(method),
            session.data,
            session.run_settings(self.path(name).parent),
            session.learning.optimiser_settings,
            core("training.workers").Workers(session.device),
            trainer.Listeners(reporter.start, on_step),
        )
        try:
            weights = training.run()
        finally:
            reporter.close()
        if training.done == run.steps:
            about = self.about(last[-1] if last else None)
            trained.save(self.path(name), name, plan, weights, about)

    def about(self, last: Any) -> Mapping[str, Any]:
        return {
            "class_word": self.config.class_word,
            "domain": self.domain,
            "settings": self.settings,
            "seconds": None if last is None else round(last.seconds, 1),
            "loss": None if last is None else round(last.loss, 5),
        }


class Session:
    """The frozen models and the pictures, as the trainer of the encoders has them."""

    def __init__(self, config: Any):
        self.config = config
        self.learning = pack.module("nodes.host.learning").Learning.load(config, latents_of(config))
        self.learning.check_method()
        frozen = self.learning.frozen
        source, problems = core("training.data.source").open_source(config)
        for problem in problems[:20]:
            log(f"left out: {problem}")
        dataset = core("training.data.dataset")
        self.data = dataset.TrainingData(source, frozen, config, frozen.native_size)
        self.data.prepare(lambda kind, done, total: log(f"{kind}: {done} of {total}"))
        _ = self.learning.denoiser  # brings the base to its device
        self.device = frozen.model.load_device

    def plan(self) -> Any:
        """What all methods share."""
        return core("evaluation.baselines.registry").Plan(
            self.learning.sizes,
            self.learning.norm,
            self.config.method.token_weight,
            self.learning.projections,
        )

    def step(self, method: Any) -> Any:
        """One step of its training: nested attention's own, with the method's attention."""
        denoiser = pack.module("nodes.host.training").FrozenDenoiser
        return core("training.step").TrainingStep(
            method,
            denoiser(self.learning.frozen.model, method.attend),
            self.learning.noising,
            self.config.objective.mask_weight,
        )

    def run_settings(self, folder: Path) -> Any:
        return dataclasses.replace(
            self.learning.run_settings, folder=folder, keep=1, sample_every=0
        )


def settings_of(config: Any) -> dict[str, Any]:
    """What decides the result: all but places, threads and how often something is kept."""
    every = config.to_dict()
    kept = {section: every[section] for section in ("encoder", "method", "objective", "optimiser")}
    kept["run"] = {key: every["run"][key] for key in ("steps", "batch", "seed", "ema")}
    parts, _ = pack.module("nodes.host.miniature").read()
    fingerprint = core("fingerprint").weights_fingerprint
    kept["base"] = {part: fingerprint(parts[part]) for part in ("unet", "text", "vision")}
    return kept
