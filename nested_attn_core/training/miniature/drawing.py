"""Draws the subjects of the miniature world from parts of openly licensed avatar sets.

person: dicebear "personas" (CC BY 4.0, Draftbit); kitten: robohash set4 (CC BY 4.0, David Revoy);
scenes: robohash bg1 (CC BY 3.0 or 4.0, Zikri Kader and others).
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .identities import BEARDS, COATS, FURS, HAIR_COLOURS, HAIR_STYLES, SKINS, Identity

SIDE = 192
MOUTHS = {"smiling": "bigSmile", "sad": "frown", "surprised": "surprise", "smirking": "smirk"}
EYES = {
    "": "open",
    "winking": "wink",
    "sleeping": "sleep",
    "with glasses": "glasses",
    "with sunglasses": "sunglasses",
}
SHIRT_COLOURS = {
    "blue": "#3b6fd1",
    "green": "#3fae49",
    "yellow": "#f2c318",
    "pink": "#e279c7",
    "red": "#d8342c",
    "white": "#f4f4f4",
    "black": "#2b2b2b",
    "orange": "#f08a24",
}
SHIRTS = {"shirt": "squared", "checked shirt": "checkered"}
KITTEN_EYES = {
    "with wide eyes": 0,
    "looking sly": 1,
    "with closed eyes": 6,
    "with round eyes": 8,
    "with angry eyes": 10,
    "with glasses": 12,
}
KITTEN_WEAR = {
    "": None,
    "wearing a red scarf": 0,
    "wearing a headband": 3,
    "wearing a pink bow": 4,
    "wearing a black hat": 5,
    "wearing headphones": 6,
    "wearing a blue scarf": 7,
    "wearing a red hat": 13,
}
SCENES = {
    "starry sky": "000#robotBG-11",
    "city": "002#final3",
    "forest": "003#final2",
    "ocean": "004#final4",
    "mountain": "007#final7",
    "desert": "008#final10",
    "sunrise": "009#final6",
    "beach": "011#final1",
}


@functools.cache
def _robohash_root() -> Path:
    import robohash

    return Path(robohash.__file__).parent


@functools.cache
def _layer(path: str) -> Image.Image:
    return Image.open(path).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@functools.cache
def _parts(folder: str) -> tuple[str, ...]:
    import natsort

    root = _robohash_root() / "sets" / "set4" / folder
    return tuple(natsort.natsorted(str(path) for path in root.glob("*.png")))


@functools.cache
def _coat(body: int, colour: tuple[int, int, int]) -> Image.Image:
    """The body in another coat: its brightness relative to its own mean, times the colour."""
    pixels = np.asarray(_layer(_parts("000#00body")[body])).astype(np.float32)
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    brightness = rgb.mean(-1, keepdims=True)
    usual = np.median(brightness[alpha[..., 0] > 200])
    shade = np.clip(brightness / usual, 0.35, 1.25)
    rgb = np.clip(shade * np.asarray(colour, np.float32), 0, 255)
    return Image.fromarray(np.concatenate([rgb, alpha], -1).astype(np.uint8), "RGBA")


@functools.cache
def _fur(index: int) -> Image.Image:
    pixels = np.asarray(_layer(_parts("001#01fur")[index])).astype(np.float32).copy()
    pixels[..., 3] = np.clip(pixels[..., 3] * 2.2, 0, 255)  # at 128 px the original is too faint
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def kitten_look(rng: random.Random) -> tuple[dict[str, str], int]:
    """The words for what varies in a kitten, and its mouth, which has no word."""
    eyes = rng.choice(tuple(KITTEN_EYES))
    mouth = rng.randrange(10)
    wear = rng.choice(("",) * 4 + tuple(KITTEN_WEAR)[1:])
    return {"wear": wear, "eyes": eyes}, mouth


def draw_kitten(identity: Identity, rng: random.Random) -> tuple[Image.Image, dict[str, str]]:
    """A cut-out of the kitten (RGBA, SIDE px) and the words for what varies in it."""
    words, mouth = kitten_look(rng)
    image = _coat(identity["body"], COATS[identity["coat"]]).copy()
    if identity["fur"] != "plain":
        image.alpha_composite(_fur(FURS[identity["fur"]]))
    image.alpha_composite(_layer(_parts("002#02eyes")[KITTEN_EYES[words["eyes"]]]))
    image.alpha_composite(_layer(_parts("003#03mouth")[mouth]))
    if words["wear"]:
        image.alpha_composite(_layer(_parts("004#04accessories")[KITTEN_WEAR[words["wear"]]]))
    return image, words


@functools.cache
def _personas() -> Any:
    from dicebear import Style

    text = importlib.resources.files("dicebear_styles").joinpath("personas.json").read_text("utf-8")
    return Style(json.loads(text))


def person_look(rng: random.Random) -> tuple[dict[str, str], tuple[str, str]]:
    """The words for what varies in a person, and its shirt as (colour, cut)."""
    mouth, eyes = rng.choice(tuple(MOUTHS)), rng.choice(tuple(EYES))
    colour, shirt = rng.choice(tuple(SHIRT_COLOURS)), rng.choice(tuple(SHIRTS))
    return {"mouth": mouth, "eyes": eyes, "shirt": f"in a {colour} {shirt}"}, (colour, shirt)


LOOKS = {"person": person_look, "kitten": kitten_look}


def words_of(domain: str, rng: random.Random) -> dict[str, str]:
    """Words for one look of a domain's subject, as its captions have them."""
    return LOOKS[domain](rng)[0]


def draw_person(identity: Identity, rng: random.Random) -> tuple[Image.Image, dict[str, str]]:
    """A cut-out of the person (RGBA, SIDE px) and the words for what varies in it."""
    import resvg_py
    from dicebear import Avatar

    words, (colour, shirt) = person_look(rng)
    beard = BEARDS[identity["beard"]]
    options = {
        "seed": "x",
        "hairVariant": [HAIR_STYLES[identity["style"]]],
        "hairColor": [HAIR_COLOURS[identity["hair"]]],
        "facialHairColor": [HAIR_COLOURS[identity["hair"]]],
        "skinColor": [SKINS[identity["skin"]]],
        "noseVariant": ["smallRound"],
        "facialHairProbability": 100 if beard else 0,
        "mouthVariant": [MOUTHS[words["mouth"]]],
        "eyesVariant": [EYES[words["eyes"]]],
        "clothesVariant": [SHIRTS[shirt]],
        "clothingColor": [SHIRT_COLOURS[colour]],
        "backgroundColor": ["00000000"],
    }
    if beard:
        options["facialHairVariant"] = [beard]
    svg = Avatar(_personas(), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return image, words


DRAW = {"person": draw_person, "kitten": draw_kitten}


@functools.cache
def draw_scene(name: str, size: int) -> Image.Image:
    """The background picture of a scene, RGBA, size x size."""
    path = _robohash_root() / "backgrounds" / "bg1" / f"{SCENES[name]}.png"
    return Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
