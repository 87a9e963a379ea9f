"""Hypothesis strategies for what may come over a socket or out of a widget."""

from __future__ import annotations

import json
from typing import Any

import torch
from hypothesis import strategies as st

SIDES = st.sampled_from([0, 1, 2, 8, 31, 32, 33, 48, 65, 100])
DTYPES = st.sampled_from(
    [torch.float32] * 6
    + [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
    + [torch.complex64]
)
FILLS = st.sampled_from(
    ["random"] * 6 + ["zeros", "ones", "nan", "inf", "one nan", "huge", "negative", "square"]
)


def filled(shape: tuple[int, ...], fill: str, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A tensor of that content as far as the type has it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator)
    if fill in ("zeros", "square"):
        values = torch.zeros(shape)
    if fill == "square" and values.ndim >= 2:
        values[..., 3:, 2:] = 1
    plain = {"ones": 1.0, "nan": float("nan"), "inf": float("inf"), "huge": 1e38}
    if fill in plain:
        values = torch.full(shape, plain[fill])
    if fill == "one nan" and values.numel():
        values.flatten()[-1] = float("nan")
    if fill == "negative":
        values = -values * 1e6
    if not dtype.is_floating_point and dtype != torch.complex64:
        values = values.nan_to_num(0, 1, 0).clamp(-100, 100) * (200 if fill == "random" else 1)
    return values.to(dtype)


@st.composite
def images(draw: st.DrawFn) -> Any:
    """Mostly (B, H, W, C); now and then no image at all."""
    odd = draw(st.integers(0, 19))
    if odd == 0:
        return draw(st.sampled_from([None, "picture", 5, [], {}, [torch.zeros(1, 40, 40, 3)]]))
    if odd == 1:
        shape = tuple(draw(st.lists(SIDES, max_size=5)))
    else:
        batch = draw(st.sampled_from([1, 1, 1, 2, 3, 0]))
        channels = draw(st.sampled_from([3] * 8 + [4, 4, 1, 2, 5, 0]))
        shape = (batch, draw(SIDES), draw(SIDES), channels)
    made = filled(shape, draw(FILLS), draw(DTYPES), draw(st.integers(0, 3)))
    return made.transpose(1, 2) if made.ndim > 2 and draw(st.booleans()) else made


@st.composite
def masks(draw: st.DrawFn, like: Any = None) -> Any:
    """Mostly (B, H, W), often of an image's size; now and then no mask at all."""
    odd = draw(st.integers(0, 19))
    if odd == 0:
        return draw(st.sampled_from(["mask", 5, [], {}]))
    if odd == 1:
        shape = tuple(draw(st.lists(SIDES, max_size=5)))
    elif isinstance(like, torch.Tensor) and like.ndim == 4 and draw(st.booleans()):
        shape = tuple(like.shape[:3])
    else:
        shape = (draw(st.sampled_from([1, 1, 2, 3, 0])), draw(SIDES), draw(SIDES))
    return filled(shape, draw(FILLS), draw(DTYPES), draw(st.integers(0, 3)))


ALPHABET = st.characters(codec=None)  # lone surrogates too: JSON can carry them
TEXTS = st.text(ALPHABET, max_size=40)
PARTS = st.one_of(
    st.sampled_from(
        ["<anna>", "<anna>", "<ANNA>", "<rex>", "<bob>", "<", ">", "<>", "< anna >", "<anna",
         "anna>", "<<anna>>", "(", ")", "((", "))", "(<anna>:1.2)", "(<anna>:nan)", "<anna>:1e999",
         "(<anna>:-3)", "(a:inf)", ":1.5)", "\\(", "\\)", "\\", "embedding:right",
         "embedding:wrong", "embedding:none", " embedding:../right ", "<embedding:right>",
         "BREAK", "person", "sks", "ohwx", "hta oof sht phol olis ewe qtr", "\0", "\n", " ", ",",
         "<lora:x:1>", "<anna><anna>", "<anna-1>", "a" * 200, "word " * 90, "<anna> " * 40,
         "\u202e<anna>", "<a\u0301nna>", "\ud800", "\U0001f600", "<\uff41\uff4e\uff4e\uff41>",
         "{a|b}", "[a:b:0.5]", "#", "\x01", "\x02"]
    ),
    TEXTS,
)  # fmt: skip
PROMPTS = st.one_of(
    st.lists(PARTS, max_size=8).map("".join),
    st.lists(PARTS, max_size=8).map(" ".join),
    st.sampled_from(["", " ", "(" * 3000 + "a", "(" * 3000 + "<anna>" + ")" * 3000, "<" * 3000]),
)
NAMES = st.one_of(
    st.sampled_from(["anna"] * 4 + ["<rex>", "Anna", "an na", "", "<>", "x" * 5000, "名前", "a\0"]),
    st.text(ALPHABET, max_size=12),
)
FILENAMES = st.one_of(
    NAMES,
    st.sampled_from(
        ["", "CON", "con", "nul.x", "COM1", "lpt9.safetensors", "CON ", "conin$", "COM\u00b9", "a.",
         "a ", "..", ".", "../x", "..\\x", "/x", "\\x", "C:\\x", "C:x", "\\\\host\\x", "a/b", "a:b",
         "a\0b", "x" * 300, "\u00e9" * 120, "~", "~/x", "$HOME", "%TEMP%", "a*b", "a?b", "-rf",
         ".hidden", "x.safetensors", "x.safetensors.part", "x.png", "subjects/../../x",
         "\u2024\u2024/x", "\uff0e\uff0e/x", "x\u202egnp", "x\n", "| rm", "`x`", "x;y", "file:///x"]
    ),
    st.lists(st.sampled_from(["..", "/", "\\", ".", "x", "\0", ":", " "]), max_size=8).map("".join),
)  # fmt: skip

NUMBERS = st.one_of(
    st.floats(),
    st.sampled_from([0, 1, -1, 0.5, 2, 1e-9, 1e308, -1e308, float("nan"), float("inf"), 10**30]),
    st.sampled_from(["1", "x", "", "nan", None, True, {}, [], [1], {"a": 1}, [[]]]),
)


def numbers(least: float, most: float) -> st.SearchStrategy[Any]:
    """Mostly within a widget's limits, often at them, now and then anything."""
    inside = st.floats(least, most)
    edges = st.sampled_from([least, most, least - 0.001, most + 0.001, float("nan")])
    return st.one_of(inside, inside, edges, inside, NUMBERS)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXTS,
        st.sampled_from([-1, 0, 2**31, 2**63, 10**400, 1e999, "../../x", "nan"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with one to three of its parts replaced, removed or added."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_spots(document))
        if not spots:
            return draw(JSON)
        holder, key = draw(st.sampled_from(spots))
        act = draw(st.sampled_from(["replace", "replace", "remove", "swap", "add"]))
        if act == "replace":
            holder[key] = draw(JSON)
        elif act == "remove":
            del holder[key]
        elif act == "swap":
            other, place = draw(st.sampled_from(spots))
            # A copy, as a part inside itself is no JSON.
            holder[key] = json.loads(json.dumps(other[place]))
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(JSON)
    return document


def _spots(document: Any) -> Any:
    if isinstance(document, (dict, list)):
        keys = list(document) if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield document, key
            yield from _spots(document[key])
