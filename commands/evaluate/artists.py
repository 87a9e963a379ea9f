"""Methods with their weights, drawing held-out subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from methods import trained
from methods.sampling import Cast
from stages.common import MODELS, core, log

from .studios import Painter, in_batches

NAME = "anna"


@dataclass(frozen=True)
class Artist:
    """A trained method for one domain; its fingerprint is that of its weights."""

    name: str
    domain: str
    method: Any
    fingerprint: str

    def draw(
        self,
        painter: Painter,
        features: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
    ) -> Tensor:
        """Pictures (n, H, W, 3), 0 to 1, of subjects with features (n, L, d) that the prompts call
        <anna>; a prompt that does not name it has no subject."""
        studio = painter.studio

        def some(rows: slice) -> Tensor:
            texts = studio.read(prompts[rows], {NAME: self.domain})
            cast = Cast(self.method, features[rows], texts.positions[NAME], strength)
            return studio.draw(texts, seeds[rows], [cast], painter.how)

        return in_batches(len(seeds), some)


def shipped(domain: str, name: str = "nested") -> Artist:
    """The encoder in models/, with its own settings."""
    path = MODELS / f"{domain}.safetensors"
    if not path.is_file():
        raise SystemExit(
            f"There is no encoder {path.name}; train it: "
            f"dev.py train configs/miniature/{domain}.toml."
        )
    return replace(open_artist(path), name=name, domain=domain)


def open_artist(path: Path) -> Artist:
    """The encoder of a file, with its own settings; its domain is what its class word says."""
    found = trained.of_encoder(path)
    fingerprint = core("fingerprint").file_fingerprint(path)
    return Artist(found.name, found.class_word, found.method, fingerprint)


def domains() -> list[str]:
    """The domains that have a shipped encoder; says which have none."""
    every = core("training.miniature.identities").DOMAINS
    there = [domain for domain in every if (MODELS / f"{domain}.safetensors").is_file()]
    for domain in every:
        if domain not in there:
            log(f"{domain}: left out, since models/ has no encoder for it")
    return there


def shipped_only(domain: str) -> list[Artist]:
    """For the evaluation of the shipped encoders alone."""
    return [shipped(domain)]


def compared(chosen: Sequence[str] | None, folder: Path | None, domain: str) -> list[Artist]:
    """The shipped encoder, and the methods that were trained alike, of the `chosen` names only
    where given. Nested attention among these is the one that baselines are held against; the
    shipped encoder, which may have been trained for longer, then has another name."""
    folder, print_of = folder or trained.FOLDER, core("fingerprint").file_fingerprint
    found = [
        Artist(name, domain, made.method, print_of(trained.path_of(domain, name, folder)))
        for name, made in trained.every(domain, folder).items()
        if chosen is None or name in (*chosen, "nested")
    ]
    alike = any(artist.name == "nested" for artist in found)
    return [shipped(domain, "nested, shipped" if alike else "nested"), *found]
