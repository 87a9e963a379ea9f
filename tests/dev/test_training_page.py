"""docs/training.md says what the program says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import training_settings
from nested_attn_core.training.config_file import load_config, settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = training_settings.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_settings():
    assert training_settings.page(TEXT) == TEXT, "run: python commands/training_settings.py"
    for key, setting in settings():
        section, name = key.split(".")
        table = TEXT.split(f"### [{section}]")[1].split("###")[0]
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.count(" | ") == 3
        assert ("| needed |" in row) == setting.is_required()


def test_a_page_without_its_place_is_refused():
    with pytest.raises(ValueError, match="put them back"):
        training_settings.page(TEXT.replace(training_settings.END, ""))


def test_writing_renews_an_old_table(tmp_path, capsys):
    begin, end = training_settings.BEGIN, training_settings.END
    path = tmp_path / "page.md"
    path.write_text(f"above\n{begin}\nOUTDATED\n{end}\nbelow\n", encoding="utf-8")
    assert training_settings.main(path) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "OUTDATED" not in text
    assert capsys.readouterr().out.startswith("page.md is written")


def strings() -> list[str]:
    """Every text of the program, as it is after Python has joined its parts."""
    return [
        node.value
        for folder in ("nested_attn_core", "nodes", "commands")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_every_message_of_the_page_is_one_of_the_program():
    table = TEXT.split("## What messages mean")[1].split("\n## ")[0]
    messages = [m for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for m in row.split("`, `")]
    assert len(messages) > 12
    known = strings()
    for message in messages:
        for part in re.split(r"\.\.\.|\(.*?\)", message.strip("`")):
            part = part.strip(' "')
            if len(part) > 4 and part != "is nan":
                assert any(part in text for text in known), part


def test_the_settings_on_the_page_can_be_used(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    (tmp_path / "cats.toml").write_text(block, encoding="utf-8")
    assert load_config(tmp_path / "cats.toml").output.name == "shelter-cats"


def test_files_that_the_page_names_are_there():
    links = re.findall(r"\]\(((?!#|http)[^)]+)\)", TEXT)
    named = re.findall(
        r"\b((?:benchmarks|commands|configs|docs/examples)/[\w/.-]+\.(?:py|toml))", TEXT
    )
    assert links and named
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
    for name in named:
        assert (ROOT / name).exists(), name
