"""Nested Attention for ComfyUI: put your own subjects into an image, each by its name.

The door of the pack: the host calls comfy_entrypoint and finds everything else from there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .nodes.host.versions import too_old

if TYPE_CHECKING:
    from .nodes.extension import NestedAttentionExtension

# The help pages of the nodes, in docs/ there; the editor finds them by the node's id.
WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> NestedAttentionExtension:
    """What the host calls once to get the pack's nodes."""
    from .nodes.extension import NestedAttentionExtension

    return NestedAttentionExtension()


if _problem := too_old():
    logging.getLogger("nested_attention").error(_problem)
    # Even hosts before entry points take this for a pack, here of no nodes, and log nothing more.
    NODE_CLASS_MAPPINGS: dict[str, type] = {}
