"""What the editor fetches beside the nodes: translations and help pages."""

from __future__ import annotations

import pytest

from host_server import PACK_FOLDER
from pack import ROOT

LOCALES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
PAGES = sorted(page.relative_to(ROOT / "web").as_posix() for page in ROOT.glob("web/docs/**/*.md"))


def test_every_help_page_is_served(server):
    for page in PAGES:
        status, body = server.request(f"/extensions/{PACK_FOLDER}/{page}")
        assert status == 200 and body.startswith(b"# "), page
    status, _ = server.request(f"/extensions/{PACK_FOLDER}/docs/NoSuchNode.md")
    assert status == 404


@pytest.mark.parametrize("language", LOCALES)
def test_the_translations_are_served(server, language):
    nodes = server.get("/i18n")[language]["nodeDefs"]
    listed = {name for name in server.get("/object_info") if name.startswith("NestedAttention")}
    assert listed <= nodes.keys()
