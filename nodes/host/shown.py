"""Text on a node while its workflow runs, in the browser of the user who queued it."""

from __future__ import annotations

import html
import sys
from typing import Any


def show_text(hidden: Any, text: str) -> None:
    """Shows ``text`` on the node whose hidden values (with unique_id) are given.

    Nothing happens where no editor waits: in a run that a script queued, or without a server.
    """
    # The module is there where the host serves; importing it would start to build a server.
    host = getattr(sys.modules.get("server"), "PromptServer", None)
    server = getattr(host, "instance", None)
    node = getattr(hidden, "unique_id", None)
    client = getattr(server, "client_id", None)
    # Without a client the host would tell every user of the server.
    if server is None or node is None or client is None:
        return
    # The editor takes the text for HTML.
    server.send_progress_text(html.escape(text, quote=False), node, client)
