"""What the trainer takes from a data set, and what a data set takes from the frozen models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The samples of one process for one forward pass.

    latents     (B, C, h, w), floating, in the denoiser's own scale
    context     (B, T, c), floating
    positions   (B, P) int64: rows of the context that stand for the subject, -1 for an empty slot
    features    (B, L, d), floating: what the image backbone makes of the reference
    conditions  what else the denoiser takes by name, such as {"y": (B, a)} for SDXL
    mask        (B, 1, h, w), 0 to 1, or None: where the latents show the subject; all 0 in rows
                for which that is not known
    captions    (B) texts of the context, or none: needed where the placeholder trains
    """

    latents: Tensor
    context: Tensor
    positions: Tensor
    features: Tensor
    conditions: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.latents)


class Examples(Protocol):
    """A data set as an endless row of samples."""

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Samples by their number in the training, which never falls within one process.

        What a number gives depends on the seed and the number alone, so that a resumed run, and a
        run on any number of processes, sees the same samples."""
        ...


@dataclass(frozen=True)
class Text:
    """One caption, encoded: context (T, c), rows of the placeholder's tokens, pooled (p,)."""

    context: Tensor
    positions: tuple[int, ...]
    pooled: Tensor | None = None


class Encoders(Protocol):
    """The frozen models that turn pictures and captions into what a Batch holds."""

    @property
    def keys(self) -> Mapping[str, str]:
        """Fingerprints of "vae", "text" and "vision", for caches."""
        ...

    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, H, W, 3), 0 to 1, to latents (B, C, h, w), fp32 on the CPU."""
        ...

    def text(self, captions: Sequence[str]) -> list[Text]:
        """Captions, in which the placeholder stands for the subject; fp32 on the CPU."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Reference pictures (B, H, W, 3), 0 to 1, to (B, L, d), fp32 on the CPU."""
        ...

    def conditions(self, pooled: Tensor | None, height: int, width: int) -> Mapping[str, Tensor]:
        """What the denoiser takes beside the context, from pooled (B, p) and the size in pixels."""
        ...
