"""Monsters: a domain that no part of the miniature has ever seen.

Drawn from dicebear "critters" (CC0, DiceBear), in the scenes, styles and places of the miniature
world, so that a base trained there can read the captions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import io
import itertools
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "commands"))

import pack  # noqa: E402

scenes = pack.module("nested_attn_core.training.miniature.scenes")
drawing = pack.module("nested_attn_core.training.miniature.drawing")
styles = pack.module("nested_attn_core.training.miniature.styles")

DOMAIN = "monster"
SIDE = 192
HELD_OUT_SHARE = 0.1
COLOURS = {
    "red": "#d63a30",
    "orange": "#f7922e",
    "yellow": "#f7d648",
    "green": "#62be50",
    "teal": "#30b2ac",
    "blue": "#4c7ae2",
    "purple": "#8c54c8",
    "pink": "#f482b8",
    "brown": "#865634",
    "white": "#f0ece2",
}
# What makes a monster itself: no caption names it.
ATTRIBUTES: dict[str, dict[str, str]] = {
    "body": {
        "round": "dome",
        "square": "block",
        "thin": "tower",
        "wide": "squat",
        "pointed": "peak",
        "bell": "bell",
        "broad below": "wedge",
        "broad above": "wedgeInv",
        "stepped": "steps",
    },
    "colour": COLOURS,
    "top": {
        "horns": "horns",
        "antenna": "bobble",
        "two antennas": "antennae",
        "round ears": "earsRound",
        "pointed ears": "earsPointy",
        "drooping ears": "earsDroop",
        "spikes": "spikes",
        "sprout": "sprout",
        "crown": "crown",
    },
    "top colour": COLOURS,
    "eyes": {"one": "mono", "two": "round", "three": "trio"},
}
# What varies in a monster, in words that the miniature's base knows from persons and robots.
MOODS = {"smiling": "smile", "sad": "frown", "surprised": "open", "grinning": "teeth"}


@dataclass(frozen=True)
class Monster:
    """One identity: the value index of each attribute."""

    values: tuple[int, ...]

    def __getitem__(self, attribute: str) -> str:
        """The part that the drawing takes for an attribute."""
        position = tuple(ATTRIBUTES).index(attribute)
        return tuple(ATTRIBUTES[attribute].values())[self.values[position]]

    @property
    def key(self) -> str:
        return "monster-" + "-".join(map(str, self.values))

    @property
    def held_out(self) -> bool:
        """True for the tenth of all combinations that are never drawn for a training."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def monsters(held_out: bool) -> tuple[Monster, ...]:
    """All identities on one side of the split, in a fixed order shuffled by hash."""
    every = map(Monster, itertools.product(*(range(len(v)) for v in ATTRIBUTES.values())))
    chosen = [m for m in every if m["colour"] != m["top colour"] and m.held_out == held_out]
    return tuple(sorted(chosen, key=lambda m: hashlib.sha256(m.key[::-1].encode()).digest()))


@functools.cache
def _critters() -> Any:
    from dicebear import Style

    text = importlib.resources.files("dicebear_styles").joinpath("critters.json").read_text("utf-8")
    return Style(json.loads(text))


@functools.lru_cache(4096)
def cutout(who: Monster, mood: str) -> Image.Image:
    """The monster alone, RGBA, SIDE px."""
    import resvg_py
    from dicebear import Avatar

    options = {
        "seed": "x",
        "bodyVariant": [who["body"]],
        "bodyColor": [who["colour"]],
        "topVariant": [who["top"]],
        "topProbability": 100,
        "accentColor": [who["top colour"]],
        "eyesVariant": [who["eyes"]],
        "mouthVariant": [MOODS[mood]],
        "patternProbability": 0,
        "cheeksProbability": 0,
        "animationVariant": ["none"],
        "backgroundColor": ["00000000"],
    }
    svg = Avatar(_critters(), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@dataclass(frozen=True)
class Picture:
    """A picture of a monster and what its caption names; the mask is white where the monster is."""

    who: Monster
    image: Image.Image
    mask: Image.Image
    mood: str
    scene: str
    style: str
    place: str

    def prompt(self, nouns: Sequence[str]) -> str:
        """The caption, with a noun for the monster."""
        who = scenes.phrase(nouns[0], {"mood": self.mood})
        return scenes.caption([who], self.scene, self.style, self.place)


def draw(who: Monster, seed: str, style: str | None = None, place: str | None = None) -> Picture:
    """The same seed, the same picture; style and place by lot where they are not given, with the
    shares of the miniature world."""
    rng = random.Random(seed)
    scene, mood = rng.choice(tuple(drawing.SCENES)), rng.choice(tuple(MOODS))
    lots = rng.random(), rng.random()
    named = [
        rng.choice([name for name in table if name]) for table in (styles.STYLES, scenes.PLACES)
    ]
    if style is None:
        style = named[0] if lots[0] < scenes.STYLED_SHARE else ""
    if place is None:
        place = named[1] if lots[1] < scenes.PLACED_SHARE and not style else ""
    where = place or ""
    centres, extents = scenes.PLACES[where]
    size = scenes.IMAGE_SIZE
    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    scenes.put(layer, cutout(who, mood), rng.uniform(*centres), rng.uniform(*extents), rng)
    canvas = drawing.draw_scene(scene, size).copy()
    canvas.alpha_composite(layer)
    image = styles.apply_style(style, canvas.convert("RGB"))
    return Picture(who, image, layer.getchannel("A"), mood, scene, style or "", where)
