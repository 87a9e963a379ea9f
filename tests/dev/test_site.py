"""The site's menu and links, without building it (`dev.py docs` does)."""

from __future__ import annotations

from typing import Any

import dev
from site_pages import ROOT, menu, site_path, sources, with_site_links


def pages(listed: list[dict[str, Any]]) -> list[str]:
    return [
        page
        for entry in listed
        for value in entry.values()
        for page in ([value] if isinstance(value, str) else value)
    ]


def test_every_page_is_in_the_menu_once():
    listed = pages(menu())
    assert len(listed) == len(set(listed))
    wanted = {page.name for page in (ROOT / "docs").glob("*.md")}
    wanted |= {f"nodes/{page.name}" for page in (ROOT / "web" / "docs").glob("*.md")}
    assert wanted | {"index.md", "changelog.md", "models/index.md"} <= set(listed)


def test_a_page_that_nobody_listed_comes_last(tmp_path):
    for folder in ("docs", "web/docs", "models"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("new.md", "training.md"):
        (tmp_path / "docs" / name).touch()
    assert menu(tmp_path) == [
        {"Home": "index.md"},
        {"Train": ["training.md"]},
        {"More": ["new.md", "changelog.md"]},
    ]


def test_links_fit_the_place_of_a_page():
    def of(text: str, source: str = "README.md", repository: str = "") -> str:
        return with_site_links(text, source, repository)

    assert of("[a](docs/training.md#captions)") == "[a](training.md#captions)"
    assert of("![a](docs/demo.png)") == "![a](demo.png)"
    assert of("[a](models/README.md)") == "[a](models/index.md)"
    assert of("[a](../docs/miniature.md)", "models/README.md") == "[a](../miniature.md)"
    assert of("[a](person.png)", "models/person.md") == "[a](person.png)"
    assert of("[a](../README.md)", "docs/training.md") == "[a](index.md)"
    assert of("[sd15](../configs/sd15.toml)", "docs/training.md") == "sd15"
    assert (
        of("[a](../configs/sd15.toml)", "docs/training.md", "https://h.org/x/")
        == "[a](https://h.org/x/blob/HEAD/configs/sd15.toml)"
    )
    for kept in ("`[a](docs/x.md)`", "[a](https://arxiv.org)", "[a](#here)", "```\n[a](b)\n```"):
        assert of(kept) == kept


def test_generated_pages_come_from_files_that_are_there():
    for path, source in sources().items():
        assert (ROOT / source).is_file()
        assert site_path(source, sources()) == path


def test_the_site_s_lock_is_a_list_of_pins():
    pins = dev.parse_pins(dev.DOCS_LOCK.read_text(encoding="utf-8"), (3, 11))
    assert {"mkdocs", "mkdocs-material", "pymdown-extensions"} <= pins.keys()
