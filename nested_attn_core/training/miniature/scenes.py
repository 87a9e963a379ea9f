"""Pictures of one or two subjects in a scene, with the caption that describes them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from .drawing import DRAW, SCENES, draw_scene
from .identities import Identity

IMAGE_SIZE = 128
DESCRIBE_SHARE = 0.5


@dataclass(frozen=True)
class Picture:
    """One rendered picture; `words[i]` names what varies in subject i."""

    image: Image.Image
    caption: str
    scene: str
    words: tuple[dict[str, str], ...]


def describe(identity: Identity) -> str:
    """The identity in words, as they stand before the class word in a caption."""
    if identity.domain == "kitten":
        return f"{identity['fur']} {identity['coat']}"
    parts = [f"{identity['skin']} skin", identity["hair"], f"{identity['style']} hair"]
    return " ".join([*parts, identity["beard"]]).strip()


def phrase(noun: str, words: dict[str, str]) -> str:
    """`noun` followed by what varies, e.g. "person smiling with glasses in a red shirt"."""
    return " ".join(["a", noun, *(word for word in words.values() if word)])


def caption(phrases: Sequence[str], scene: str) -> str:
    """Every caption's form: who, left to right, then where."""
    return " and ".join(phrases) + f", {scene}"


def _place(canvas: Image.Image, cutout: Image.Image, centre: float, extent: float, rng) -> None:
    size = canvas.width
    cutout = cutout.crop(cutout.getbbox())
    scale = extent * size / max(cutout.size)
    cutout = cutout.resize(
        (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))),
        Image.Resampling.LANCZOS,
    )
    if rng.random() < 0.5:
        cutout = ImageOps.mirror(cutout)
    cutout = cutout.rotate(rng.uniform(-7, 7), Image.Resampling.BICUBIC, expand=True)
    left = int(centre * size - cutout.width / 2)
    top = int(size - cutout.height + rng.uniform(0, 0.05) * size)
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    layer.paste(cutout, (left, top))
    canvas.alpha_composite(layer)


def render(
    subjects: Sequence[Identity], seed: str, size: int = IMAGE_SIZE, scene: str | None = None
) -> Picture:
    """Draw one or two subjects, left to right in the order given; the same seed, the same picture.

    The caption names scene, garments, accessories and expressions always and the identity's own
    attributes in half of the cases, so that the base learns to read identity from the class word.
    """
    rng = random.Random(seed)
    scene = scene or rng.choice(tuple(SCENES))
    canvas = draw_scene(scene, size).copy()
    single = len(subjects) == 1
    phrases, every = [], []
    for index, identity in enumerate(subjects):
        cutout, words = DRAW[identity.domain](identity, rng)
        centre = rng.uniform(0.42, 0.58) if single else (0.26, 0.74)[index]
        extent = rng.uniform(0.8, 1.0) if single else rng.uniform(0.54, 0.62)
        _place(canvas, cutout, centre, extent, rng)
        known = rng.random() < DESCRIBE_SHARE
        noun = f"{describe(identity)} {identity.domain}" if known else identity.domain
        phrases.append(phrase(noun, words))
        every.append(words)
    return Picture(canvas.convert("RGB"), caption(phrases, scene), scene, tuple(every))
