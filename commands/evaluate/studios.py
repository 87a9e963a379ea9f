"""The miniature to draw with: as it ships, from another file, or as far as a training has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pack
from methods.sampling import Settings, Studio
from stages.common import STATE, core
from stages.export import strip

BATCH = 16


@dataclass(frozen=True)
class Painter:
    """A studio, how it draws, and where its weights come from."""

    studio: Studio
    how: Settings
    about: dict

    def plain(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """The base's pictures (n, H, W, 3), 0 to 1."""
        return in_batches(
            len(seeds),
            lambda rows: self.studio.draw(
                self.studio.read(captions[rows]), seeds[rows], settings=self.how
            ),
        )

    @torch.no_grad()
    def coded(self, images: Tensor) -> Tensor:
        """Pictures (n, H, W, 3) once through the autoencoder: what the base could at best draw."""
        vae = self.studio.vae
        return torch.cat([vae.decode(vae.encode(part)).cpu() for part in images.split(BATCH)])


@torch.no_grad()
def in_batches(count: int, draw: Callable[[slice], Tensor]) -> Tensor:
    """Pictures of all rows, drawn some at a time."""
    return torch.cat([draw(slice(at, min(at + BATCH, count))) for at in range(0, count, BATCH)])


def open_painter(path: Path | None, how: Settings) -> Painter:
    """From the shipped file (None), another such file, or a base training's state (.pt)."""
    miniature = pack.module("nodes.host.miniature")
    if path is not None and path.suffix == ".pt":
        loaded, about = _of_training(path)
    else:
        file = path or Path(miniature.FILE)
        loaded, about = miniature.load_miniature(file), {"weights": file.name}
    # The host sets no memory format; this one is the faster on a CPU, and the same function.
    loaded.model.model.diffusion_model.to(memory_format=torch.channels_last)
    return Painter(Studio(*loaded), how, about)


def _of_training(path: Path) -> tuple[Any, dict]:
    """The base of a state.pt with code.pt beside it; the rest as far as it is trained."""
    miniature, config = pack.module("nodes.host.miniature"), core("training.miniature.config")
    load = core("training.checkpoints").load_state
    state, code = load(path), load(path.parent / "code.pt")
    if state is None or code is None:
        raise SystemExit(f"{path} or code.pt beside it is missing; name a base's state.pt.")
    about = {"weights": "training", "step": state["step"], "loss": round(state["loss"], 4)}
    weights = state["averaged"]
    loaded = miniature.Miniature(
        miniature.model_from(strip(weights, "unet."), config.UNET),
        miniature.clip_from(strip(weights, "text."), config.TEXT, code["token_ids"].tolist()),
        *_vae_and_vision(miniature, load),
    )
    return loaded, about


def _vae_and_vision(miniature: Any, load: Callable[[Path], dict | None]) -> tuple[Any, Any]:
    sizes = core("training.miniature.config")
    shipped, about = miniature.read()
    state = load(STATE / "autoencoder" / "state.pt")
    vae = dict(state["averaged"]) if state else shipped["vae"]
    return (
        miniature.vae_from(vae, sizes.VAE),
        miniature.vision_from(shipped["vision"], about["vision"]),
    )
