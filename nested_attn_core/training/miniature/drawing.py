"""Draws the subjects of the miniature world from parts of openly licensed avatar sets.

person: dicebear "personas" (CC BY 4.0, Draftbit); kitten: robohash set4 (CC BY 4.0, David Revoy);
robot: robohash set1, and scenes: robohash bg1 (CC BY 3.0 or 4.0, Zikri Kader and others).
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .identities import Identity

SIDE = 192
MOUTHS = {"smiling": "bigSmile", "sad": "frown", "surprised": "surprise"}
EYES = {"": "open", "with glasses": "glasses", "with sunglasses": "sunglasses"}
SHIRTS = {
    "in a blue shirt": "#3b6fd1",
    "in a green shirt": "#3fae49",
    "in a yellow shirt": "#f2c318",
    "in a pink shirt": "#e279c7",
    "in a red shirt": "#d8342c",
    "in a white shirt": "#f4f4f4",
    "in a black shirt": "#2b2b2b",
    "in an orange shirt": "#f08a24",
}
KITTEN_EYES = {
    "with wide eyes": 0,
    "with closed eyes": 6,
    "with angry eyes": 10,
    "with glasses": 12,
}
KITTEN_WEAR = {
    "": None,
    "wearing a red scarf": 0,
    "wearing a pink bow": 4,
    "wearing a black hat": 5,
    "wearing headphones": 6,
    "wearing a blue scarf": 7,
    "wearing a red hat": 13,
}
ROBOT_EYES = {
    "with yellow eyes": 7,
    "with a visor": 10,
    "with dark eyes": 2,
    "with a red eye": 3,
}
ROBOT_MOUTHS = {"": 5, "grinning": 4, "shouting": 6}
# What a domain's captions name of a subject's look, and the values that it can have.
LOOKS: dict[str, dict[str, dict]] = {
    "person": {"mouth": MOUTHS, "eyes": EYES, "shirt": SHIRTS},
    "kitten": {"wear": KITTEN_WEAR, "eyes": KITTEN_EYES},
    "robot": {"mouth": ROBOT_MOUTHS, "eyes": ROBOT_EYES},
}
FACE = frozenset({"mouth", "eyes"})  # looks that take a small part of the picture
FULL_BEARD = "beardMustache"  # has a mouth of its own, the same whatever mouth is asked for
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

    root = _robohash_root() / "sets" / folder
    return tuple(natsort.natsorted(str(path) for path in root.glob("*.png")))


def words_of(domain: str, rng: random.Random) -> dict[str, str]:
    """Words for one look of a domain's subject, as its captions have them."""
    return {name: rng.choice(tuple(values)) for name, values in LOOKS[domain].items()}


def other_face(domain: str, rng: random.Random) -> dict[str, str]:
    """What `words_of` gives for the same lots, but with the next value for mouth and eyes."""
    words = words_of(domain, rng)
    for name in FACE & words.keys():
        values = tuple(LOOKS[domain][name])
        words[name] = values[(values.index(words[name]) + 1) % len(values)]
    return words


def shown(identity: Identity, words: dict[str, str]) -> dict[str, str]:
    """Those of the words that a picture of the identity can show: a full beard hides the mouth."""
    hidden = identity.domain == "person" and identity.part("beard") == FULL_BEARD
    return {name: word for name, word in words.items() if not (hidden and name == "mouth")}


# A domain and lots -> the words for one look.
Looks = Callable[[str, random.Random], dict[str, str]]


@functools.cache
def _kitten_shade() -> tuple[np.ndarray, np.ndarray]:
    """Brightness (SIDE, SIDE, 1) relative to the coat's, and alpha (SIDE, SIDE, 1) in 0..255."""
    pixels = np.asarray(_layer(_parts("set4/000#00body")[11])).astype(np.float32)
    brightness, alpha = pixels[..., :3].mean(-1, keepdims=True), pixels[..., 3:]
    usual = np.median(brightness[alpha[..., 0] > 200])
    return np.clip(brightness / usual, 0.35, 1.25), alpha


def _ellipse(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A soft ellipse (SIDE, SIDE, 1) in 0..1; the box in shares of the side."""
    mask = Image.new("L", (SIDE * 2, SIDE * 2), 0)
    box = [2 * SIDE * edge for edge in (left, top, right, bottom)]
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return np.asarray(mask.resize((SIDE, SIDE)), np.float32)[..., None] / 255


@functools.cache
def _region(marking: int | str) -> np.ndarray:
    """Where a marking lies, (SIDE, SIDE, 1) in 0..1: a pattern of the set, or a shape of ours."""
    if marking == "hood":
        return _ellipse(0.16, -0.3, 1.0, 0.36)
    if marking == "bib":
        return _ellipse(0.4, 0.68, 0.86, 1.3)
    if marking == "tail":
        return (np.arange(SIDE) < 0.17 * SIDE).astype(np.float32)[None, :, None]
    alpha = np.asarray(_layer(_parts("set4/001#01fur")[int(marking)]))[..., 3:].astype(np.float32)
    return np.clip(alpha / max(1.0, float(np.quantile(alpha[alpha > 0], 0.9))), 0, 1)


def draw_kitten(
    identity: Identity, rng: random.Random, looks: Looks = words_of
) -> tuple[Image.Image, dict[str, str]]:
    """A cut-out of the kitten (RGBA, SIDE px) and the words for what varies in it."""
    words, mouth = looks("kitten", rng), rng.randrange(10)
    shade, alpha = _kitten_shade()
    colour = np.broadcast_to(np.asarray(identity.part("coat"), np.float32), (SIDE, SIDE, 3))
    painted = [(identity.part("marking"), identity.part("colour"))]
    if identity.part("tail") is not None:
        painted.append(("tail", identity.part("tail")))
    for marking, paint in painted:
        mask = _region(marking)
        colour = (1 - mask) * colour + mask * np.asarray(paint, np.float32)
    rgb = np.clip(shade * colour, 0, 255)
    image = Image.fromarray(np.concatenate([rgb, alpha], -1).astype(np.uint8), "RGBA")
    image.alpha_composite(_layer(_parts("set4/002#02eyes")[KITTEN_EYES[words["eyes"]]]))
    image.alpha_composite(_layer(_parts("set4/003#03mouth")[mouth]))
    if words["wear"]:
        image.alpha_composite(_layer(_parts("set4/004#04accessories")[KITTEN_WEAR[words["wear"]]]))
    return image, words


@functools.cache
def _personas() -> Any:
    from dicebear import Style

    text = importlib.resources.files("dicebear_styles").joinpath("personas.json").read_text("utf-8")
    return Style(json.loads(text))


def draw_person(
    identity: Identity, rng: random.Random, looks: Looks = words_of
) -> tuple[Image.Image, dict[str, str]]:
    """A cut-out of the person (RGBA, SIDE px) and the words for what varies in it."""
    import resvg_py
    from dicebear import Avatar

    words = looks("person", rng)
    beard = identity.part("beard")
    options = {
        "seed": "x",
        "hairVariant": [identity.part("style")],
        "hairColor": [identity.part("hair")],
        "facialHairColor": [identity.part("hair")],
        "skinColor": [identity.part("skin")],
        "noseVariant": ["smallRound"],
        "facialHairProbability": 100 if beard else 0,
        "mouthVariant": [MOUTHS[words["mouth"]]],
        "eyesVariant": [EYES[words["eyes"]]],
        "clothesVariant": ["squared"],
        "clothingColor": [SHIRTS[words["shirt"]]],
        "backgroundColor": ["00000000"],
    }
    if beard:
        options["facialHairVariant"] = [beard]
    svg = Avatar(_personas(), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA"), shown(identity, words)


@functools.cache
def _robot_part(colour: str, folder: str, number: int) -> Image.Image:
    """The part of that number; the order of the files differs from colour to colour."""
    (path,) = (p for p in _parts(f"set1/{colour}/{folder}") if p.endswith(f"-{number:02d}.png"))
    return _layer(path)


def draw_robot(
    identity: Identity, rng: random.Random, looks: Looks = words_of
) -> tuple[Image.Image, dict[str, str]]:
    """A cut-out of the robot (RGBA, SIDE px) and the words for what varies in it."""
    words, head = looks("robot", rng), identity.part("head")
    image = _robot_part(identity.part("body"), "003#01Body", 9).copy()
    image.alpha_composite(_robot_part(head, "004#02Face", identity.part("shape")))
    image.alpha_composite(_robot_part(head, "001#Eyes", ROBOT_EYES[words["eyes"]]))
    image.alpha_composite(_robot_part(head, "000#Mouth", ROBOT_MOUTHS[words["mouth"]]))
    if identity.part("top") is not None:
        image.alpha_composite(_robot_part(head, "002#Accessory", identity.part("top")))
    return image, words


DRAW = {"person": draw_person, "kitten": draw_kitten, "robot": draw_robot}


@functools.cache
def draw_scene(name: str, size: int) -> Image.Image:
    """The background picture of a scene, RGBA, size x size."""
    path = _robohash_root() / "backgrounds" / "bg1" / f"{SCENES[name]}.png"
    return Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
