"""docs/weights.md shows a mapping file that loads, and names every entry."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from nested_attn_core.release.mapping_file import Mapping, read_mapping

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"


def test_the_example_is_a_mapping_file(tmp_path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    example = re.search(r"```json\n(.+?)```", text, re.S)
    assert example is not None
    (tmp_path / "model.mapping.json").write_text(example[1])
    mapping = read_mapping(tmp_path / "model.safetensors")
    assert mapping is not None
    for name, value in json.loads(example[1]).items():
        assert getattr(mapping, name) == (tuple(value) if isinstance(value, list) else value)


def test_every_entry_is_explained() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| entry | meaning |")[1]
    assert {f.name for f in fields(Mapping)} == set(
        name
        for line in re.findall(r"^\| (`.+?) \|", table, re.M)
        for name in re.findall("`(.+?)`", line)
    )
