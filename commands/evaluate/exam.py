"""What a domain's methods are examined on: subjects, references, prompts, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from methods.sampling import Settings
from stages.common import core

from .artists import NAME
from .reading import Reader, stack


@dataclass(frozen=True)
class Size:
    """How much is drawn: pictures a domain and strength; held-out subjects to be told apart, the
    first `subjects` of which are drawn; prompts and seeds for the diversity."""

    pictures: int = 200
    gallery: int = 100
    subjects: int = 100
    prompts: int = 8
    seeds: int = 8


@dataclass(frozen=True)
class Exam:
    """One domain's questions.

    cases      one a picture, with the caption and the seed of it
    who        (n,) int64: the picture's subject, a row of the gallery
    labels     by head, of attributes.labels; asked: by prompt head, where the caption names it
    colours    (n,) bool: styles that keep colours, so that identity can be read
    pictures   (gallery, H, W, 3): plain reference pictures; first, second (gallery, d) embeddings
               of them and of other plain pictures
    features   (gallery, L, width) of the image backbone, of the reference pictures
    """

    domain: str
    seed: int
    size: Size
    cases: Sequence[Any]
    who: Tensor
    labels: dict[str, Tensor]
    asked: dict[str, Tensor]
    colours: Tensor
    pictures: Tensor
    first: Tensor
    second: Tensor
    features: Tensor

    @cached_property
    def captions(self) -> list[str]:
        """With the plain class word."""
        return [case.prompt() for case in self.cases]

    @cached_property
    def prompts(self) -> list[str]:
        """With the subject's name."""
        return [case.prompt([f"<{NAME}>"]) for case in self.cases]

    @cached_property
    def seeds(self) -> list[int]:
        return [self.seed * 1_000_000 + row for row in range(len(self.cases))]

    @property
    def variety(self) -> tuple[list[int], list[int]]:
        """Rows and seeds for the diversity: each of the first prompts with several seeds."""
        pairs = [(row, s) for row in range(self.size.prompts) for s in range(self.size.seeds)]
        return [row for row, _ in pairs], [500_000 + self.seeds[row] + 1000 * s for row, s in pairs]

    def settings(self, how: Settings) -> dict:
        """What decides the pictures, beside weights and strength."""
        about = {"domain": self.domain, "seed": self.seed, "captions": self.captions}
        return {**about, **asdict(self.size), **asdict(how)}


def prepare(domain: str, seed: int, size: Size, reader: Reader, vision: Any) -> Exam:
    """Draws the real pictures of a domain and reads them."""
    cases, answers = core("evaluation.cases"), core("evaluation.answers")
    pool = cases.subjects(domain, size.gallery)[: size.subjects]
    asked = cases.single_cases(domain, pool, size.pictures, seed, held_out_prompts=True)
    labels = core("training.miniature.attributes").labels([case.record for case in asked])
    colourless = core("training.miniature.styles").COLOURLESS
    pictures = stack(cases.references(domain, size.gallery, "reference"))
    second = stack(cases.references(domain, size.gallery, "second"))
    with torch.no_grad():
        features = [vision.encode_image(p)["last_hidden_state"].cpu() for p in pictures.split(64)]
    return Exam(
        domain,
        seed,
        size,
        asked,
        torch.arange(size.pictures) % len(pool),
        labels,
        answers.named(labels),
        torch.tensor([case.picture.style not in colourless for case in asked]),
        pictures,
        reader.embed(pictures, domain),
        reader.embed(second, domain),
        torch.cat(features),
    )
