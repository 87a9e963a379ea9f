"""Translations: complete, of this schema, translated, and readable by the editor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from message_texts import ROOT

LOCALES = ROOT / "locales"
WANTED = ("de", "en", "es", "fr", "ja", "ko", "ru", "zh")
TRANSLATED = [language for language in WANTED if language != "en"]
SCRIPTS = {
    "zh": "[\u4e00-\u9fff]",
    "ja": "[\u3040-\u30ff]",
    "ko": "[\uac00-\ud7af]",
    "ru": "[\u0400-\u04ff]",
}
# Words that no sentence of the language has, and nearly every English one does.
ENGLISH = re.compile(
    r"\b(the|of|which|where|with|from|this|that|it|are|for|each|every|by|to|and)\b", re.IGNORECASE
)
# Names of sockets and settings that users of the language know in this form.
KEPT_NAMES = {"MODEL", "CLIP", "VAE", "CLIP_VISION", "clip", "vae", "clip_vision"}
KEPT_NAMES |= {"gradient_checkpointing", "image", "images", "seed", "tokens"}
# What the editor's message format would read as a variable, a link or a plural.
RESERVED = re.compile(r"[{}@|]")


def content(language: str, name: str) -> Any:
    path: Path = LOCALES / language / name
    return json.loads(path.read_text(encoding="utf-8"))


def texts(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a file with its keys, as "node.inputs.name.tooltip"."""
    if isinstance(tree, str):
        yield place, tree
    else:
        for key, value in tree.items():
            yield from texts(value, f"{place}.{key}" if place else key)


ORIGINAL = dict(texts(content("en", "nodeDefs.json")))


def prose(language: str) -> dict[str, str]:
    """Descriptions and tooltips: what is a sentence."""
    found = texts(content(language, "nodeDefs.json"))
    return {key: text for key, text in found if not key.endswith((".name", ".display_name"))}


def without_names(text: str) -> str:
    """A sentence without what stays English in it: names, prompts, options and paths."""
    text = re.sub(r"[„“「«\"].*?[“”」»\"]", "", text)
    text = re.sub(r"a photo of <anna> on a beach", "", text)
    return re.sub(r"<\w+>|\((?:as trained|text|none)\)|as trained|\S*[/_.]\w+", "", text)


def test_the_languages_are_those_that_are_promised():
    assert sorted(folder.name for folder in LOCALES.iterdir()) == list(WANTED)


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_there_and_none_is_left_over(language):
    translated = dict(texts(content(language, "nodeDefs.json")))
    assert ORIGINAL.keys() - translated.keys() == set()
    assert translated.keys() - ORIGINAL.keys() == set()
    assert all(text.strip() == text and text for text in translated.values())


@pytest.mark.parametrize("language", WANTED)
def test_the_menu_has_the_category(language):
    categories = content(language, "main.json")["nodeCategories"]
    assert categories.keys() == {"nested attention"} and categories["nested attention"]


@pytest.mark.parametrize("language", TRANSLATED)
def test_nothing_was_left_in_english(language):
    same = [key for key, text in prose(language).items() if text == ORIGINAL[key]]
    assert same == []
    english = {
        key: text for key, text in prose(language).items() if ENGLISH.search(without_names(text))
    }
    assert english == {}
    for key, text in texts(content(language, "nodeDefs.json")):
        if key.endswith(".display_name"):
            assert text != ORIGINAL[key]
        elif key.endswith(".name"):
            assert text != ORIGINAL[key] or text in KEPT_NAMES, key


@pytest.mark.parametrize("language", SCRIPTS)
def test_sentences_are_in_the_script_of_the_language(language):
    odd = [key for key, text in prose(language).items() if not re.search(SCRIPTS[language], text)]
    assert odd == []


@pytest.mark.parametrize("language", WANTED)
def test_the_editor_can_read_every_text(language):
    found = [
        (key, text)
        for name in ("main.json", "nodeDefs.json")
        for key, text in texts(content(language, name))
        if RESERVED.search(text)
    ]
    assert found == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_names_paths_models_and_numbers_are_kept(language):
    for key, text in prose(language).items():
        for pattern in (r"<\w+>", r"models/[a-z_]+", r"docs/[a-z_]+\.md", r"SDXL|SD1\.5|SD2|PNG"):
            wanted = set(re.findall(pattern, ORIGINAL[key]))
            assert wanted <= set(re.findall(pattern, text)), (key, text)
        numbers = set(re.findall(r"\d+(?:\.\d+)?", ORIGINAL[key]))
        assert numbers <= set(re.findall(r"\d+(?:\.\d+)?", text)), (key, text)


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_node_has_one_name_in_all_texts(language):
    """A tooltip that names another node by its English name would send the reader looking."""
    names = {
        text: key for key, text in ORIGINAL.items() if key.endswith(".display_name") and " " in text
    }
    for key, text in prose(language).items():
        assert [name for name in names if name in text] == [], key
