"""Nested Attention for ComfyUI: put your own subjects into an image, each by its name.

The door of the pack: the host calls comfy_entrypoint and finds everything else from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes.extension import NestedAttentionExtension

# The help pages of the nodes, in docs/ there; the editor finds them by the node's id.
WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> NestedAttentionExtension:
    """What the host calls once to get the pack's nodes."""
    from .nodes.extension import NestedAttentionExtension

    return NestedAttentionExtension()
