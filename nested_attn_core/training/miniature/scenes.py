"""Pictures of one or two subjects in a scene, with the caption that describes them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from .drawing import DRAW, SCENES, Looks, draw_scene, words_of
from .identities import Identity
from .styles import STYLES, apply_style

IMAGE_SIZE = 128
DESCRIBE_SHARE = 0.5
STYLED_SHARE = 0.3
# Where a single subject stands, and how large: words, range of the centre, range of the extent.
PLACES = {
    "": ((0.42, 0.58), (0.8, 1.0)),
    "on the left": ((0.24, 0.32), (0.54, 0.66)),
    "on the right": ((0.68, 0.76), (0.54, 0.66)),
    "far away": ((0.4, 0.6), (0.4, 0.48)),
}
PLACED_SHARE = 0.3


@dataclass(frozen=True)
class Picture:
    """One rendered picture; `words[i]` names what varies in subject i."""

    image: Image.Image
    caption: str
    scene: str
    style: str
    place: str
    words: tuple[dict[str, str], ...]


def describe(identity: Identity) -> str:
    """The identity in words, as they stand before the class word in a caption."""
    if identity.domain == "kitten":
        tail = f"{identity['tail']} tail" if identity["tail"] else ""
        return f"{identity['colour']} {identity['marking']} {tail} {identity['coat']}".replace(
            "  ", " "
        )
    if identity.domain == "robot":
        head = f"{identity['head']} {identity['shape']} head {identity['body']} body"
        return f"{head} {identity['top']}".strip()
    parts = [f"{identity['skin']} skin", identity["hair"], f"{identity['style']} hair"]
    return " ".join([*parts, identity["beard"]]).strip()


def phrase(noun: str, words: dict[str, str]) -> str:
    """`noun` followed by what varies, e.g. "person smiling with glasses in a red shirt"."""
    return " ".join(["a", noun, *(word for word in words.values() if word)])


def caption(phrases: Sequence[str], scene: str, style: str = "", place: str = "") -> str:
    """Every caption's form: who, left to right, and where; then the scene and the style."""
    who = " ".join(part for part in (" and ".join(phrases), place) if part)
    return ", ".join(part for part in (who, scene, style) if part)


def told(record: Mapping) -> str:
    """The caption of a record of the data set that also names the identity of every subject."""
    who = [Identity(domain, tuple(values)) for domain, *values in record["subjects"]]
    nouns = [f"{describe(one)} {one.domain}" for one in who]
    phrases = [phrase(n, words) for n, words in zip(nouns, record["words"], strict=True)]
    return caption(phrases, record["scene"], record["style"], record["place"])


def put(canvas: Image.Image, cutout: Image.Image, centre: float, extent: float, rng) -> None:
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
    subjects: Sequence[Identity],
    seed: str,
    size: int = IMAGE_SIZE,
    scene: str | None = None,
    style: str | None = None,
    place: str | None = None,
    looks: Looks = words_of,
) -> Picture:
    """Draw one or two subjects, left to right in the order given; the same seed, the same picture.

    Scene, style and place are drawn by lot where they are not given; two subjects have their own
    places. The caption names all of them, garments, accessories and expressions always, and the
    identity's own attributes in half of the cases, so that the base learns to read identity from
    the words before the class word. `looks` chooses what varies in a subject.
    """
    rng = random.Random(seed)
    lots = [rng.random() for _ in range(2)]
    drawn = [
        rng.choice(tuple(table)) for table in (SCENES, *(list(t)[1:] for t in (STYLES, PLACES)))
    ]
    scene = scene or drawn[0]
    if style is None:
        style = drawn[1] if lots[0] < STYLED_SHARE else ""
    single = len(subjects) == 1
    if not single:
        place = ""
    elif place is None:
        # A style takes too much from a small subject to learn anything of it.
        place = drawn[2] if lots[1] < PLACED_SHARE and not style else ""
    canvas = draw_scene(scene, size).copy()
    phrases, every = [], []
    for index, identity in enumerate(subjects):
        cutout, words = DRAW[identity.domain](identity, rng, looks)
        centres, extents = PLACES[place]
        centre = rng.uniform(*centres) if single else (0.26, 0.74)[index]
        extent = rng.uniform(*extents) if single else rng.uniform(0.54, 0.62)
        put(canvas, cutout, centre, extent, rng)
        known = rng.random() < DESCRIBE_SHARE
        noun = f"{describe(identity)} {identity.domain}" if known else identity.domain
        phrases.append(phrase(noun, words))
        every.append(words)
    return Picture(
        apply_style(style, canvas.convert("RGB")),
        caption(phrases, scene, style, place),
        scene,
        style,
        place,
        tuple(every),
    )
