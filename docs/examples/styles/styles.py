"""Styles as subjects: those that the miniature's base knows by name, and tints that it does not."""

from __future__ import annotations

import colorsys
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "commands"))

import pack  # noqa: E402

scenes = pack.module("nested_attn_core.training.miniature.scenes")
identities = pack.module("nested_attn_core.training.miniature.identities")
world = pack.module("nested_attn_core.training.miniature.styles")

DOMAIN = "style"
# Folder -> the words that the base was trained with; "plain" has none.
KNOWN = {name.replace(" ", "-") or "plain": name for name in world.STYLES}
# Hues in degrees. The base has seen none of them (its sepia is near 39); HELD_OUT is for the
# measure alone, so that no training of an encoder sees those either.
TINTS = {f"tint-{hue}": hue for hue in (0, 120, 180, 240, 300)}
HELD_OUT = {f"tint-{hue}": hue for hue in (80, 210)}
TRAINED = (*KNOWN, *TINTS)


def tint(image: Image.Image, hue: int) -> Image.Image:
    """Brightness alone, from dark to light in one hue: the world's sepia in another colour."""

    def colour(light: float, saturation: float) -> tuple[int, int, int]:
        red, green, blue = colorsys.hls_to_rgb(hue / 360, light, saturation)
        return round(255 * red), round(255 * green), round(255 * blue)

    return ImageOps.colorize(ImageOps.grayscale(image), colour(0.09, 0.55), colour(0.84, 0.72))


def apply(style: str, image: Image.Image) -> Image.Image:
    """An unstyled picture in a style of KNOWN, TINTS or HELD_OUT."""
    if style in KNOWN:
        return world.apply_style(KNOWN[style], image)
    return tint(image, {**TINTS, **HELD_OUT}[style])


@dataclass(frozen=True)
class Picture:
    """One subject in a scene, in a style; words: what varies in the subject."""

    who: Any
    unstyled: Image.Image
    words: dict[str, str]
    scene: str
    style: str

    @property
    def image(self) -> Image.Image:
        return apply(self.style, self.unstyled)

    def styled(self, style: str) -> Picture:
        """The same but for the style."""
        return replace(self, style=style)

    def prompt(self, style: str) -> str:
        """The caption, with words for the style; "" for none."""
        who = scenes.phrase(self.who.domain, self.words)
        return scenes.caption([who], self.scene, style)

    @property
    def record(self) -> dict:
        """As the miniature's data set has it, for attributes.labels; tints count as sepia there,
        since both show no colours."""
        return {
            "scene": self.scene,
            "style": KNOWN.get(self.style, "sepia photo"),
            "place": "",
            "subjects": [[self.who.domain, *self.who.values]],
            "words": [self.words],
        }


def draw(who: Any, style: str, seed: str, scene: str | None = None) -> Picture:
    """The same arguments, the same picture; another style or scene, the same but for it."""
    seen = scenes.render((who,), f"style {who.key} {seed}", scene=scene, style="", place="")
    return Picture(who, seen.image, seen.words[0], seen.scene, style)


def subject(number: int, held_out: bool) -> Any:
    """Subjects of all domains in turn, from one side of the miniature's split."""
    turn, domain = divmod(number, len(identities.DOMAINS))
    pool = identities.identities(identities.DOMAINS[domain], held_out)
    return pool[turn % len(pool)]
