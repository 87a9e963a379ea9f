"""How a training is followed: a bar on a terminal, lines elsewhere, and TensorBoard logs."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import NestedAttentionError
from .trainer import Progress

log = logging.getLogger("nested_attention")


class Reporter:
    """Tells of a training of `steps` steps with `batch` samples each.

    tensorboard   a folder for TensorBoard's logs, or None for none
    every_seconds between two lines where there is no terminal
    """

    def __init__(
        self,
        steps: int,
        batch: int,
        tensorboard: Path | None = None,
        every_seconds: float = 15.0,
        terminal: bool | None = None,
    ):
        self.steps = steps
        self.batch = batch
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._every = every_seconds
        self._writer = None if tensorboard is None else _writer(tensorboard)
        self._bar: Any = None
        self._first = self._told = self._started = 0.0

    def start(self, first: int) -> None:
        """The training begins with step `first` + 1."""
        self._first = first
        self._started = self._told = time.monotonic()
        if self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=self.steps, initial=first, unit="step", dynamic_ncols=True)

    def step(self, progress: Progress) -> None:
        """After a step."""
        now = time.monotonic()
        done = progress.step - self._first
        speed = done * self.batch / max(now - self._started, 1e-9)
        if self._writer is not None:
            self._writer.add_scalar("loss", progress.last_loss, progress.step)
            self._writer.add_scalar("loss smoothed", progress.loss, progress.step)
            self._writer.add_scalar("rate", progress.rate, progress.step)
            self._writer.add_scalar("images per second", speed, progress.step)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.4f}", images_s=f"{speed:.1f}")
            self._bar.update(1)
        elif now - self._told >= self._every or progress.step == self.steps or done == 1:
            self._told = now
            left = (self.steps - progress.step) * (now - self._started) / done
            log.info(
                "step %d/%d loss %.4f, %.1f images/s, %s left",
                progress.step,
                self.steps,
                progress.loss,
                speed,
                _duration(left),
            )

    def picture(self, name: str, path: Path, step: int) -> None:
        """A picture that was written, such as a sample sheet."""
        log.info("%s after step %d: %s", name, step, path)
        if self._writer is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Ends the bar and the logs."""
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise NestedAttentionError(
            "run.tensorboard needs the package tensorboard, which is not installed; install it "
            "(pip install tensorboard), or set run.tensorboard to false."
        ) from error
    return SummaryWriter(str(folder))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
