"""The real editor in a real Chromium on a real server; each test gets a fresh page.

BROWSER_SCREENSHOTS names a folder for pictures of the page; without it, none is kept.
BROWSER_FRONTEND names the `static` folder of another comfyui-frontend-package to test in.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driving import new_server
from editor import Editor
from host_server import HostServer

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# No greetings of a first visit, and text on nodes however small they are.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
PATIENCE = 120_000  # milliseconds for one condition; busy machines are slow
VISITED = "localStorage.clear(); localStorage.setItem('vueNodesBannerDismissed', 'true')"


def absent(what: str) -> None:
    """Skips, but never where CI=true: nobody reads what CI has skipped."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{what}; CI must not go without the browser tests.", pytrace=False)
    pytest.skip(f"{what}, so the editor was not tested in a browser.")


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running browser, in which pages open."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        absent("There is no Chromium (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("There is no playwright (pip install playwright)")
    with sync_playwright() as playwright:
        # With a folder of its own it keeps the editor's files compiled, from page to page.
        opened = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=program,
            args=SWITCHES,
            viewport={"width": 1440, "height": 900},
            locale="en-US",
        )
        opened.set_default_timeout(PATIENCE)
        opened.add_init_script(VISITED)
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def server(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """The server of all browser tests; it starts only where there is a browser."""
    base = tmp_path_factory.mktemp("host")
    user = base / "user" / "default"
    user.mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    other = os.environ.get("BROWSER_FRONTEND")
    with new_server(base, more=("--front-end-root", other) if other else ()) as running:
        yield running


@pytest.fixture
def editor(chromium: Any, server: HostServer) -> Iterator[Editor]:
    """A fresh page with an empty canvas."""
    folder = os.environ.get("BROWSER_SCREENSHOTS")
    page = chromium.new_page()
    opened = Editor(page, server, Path(folder).resolve() if folder else None)
    try:
        opened.open()
        yield opened
    finally:
        page.close()
