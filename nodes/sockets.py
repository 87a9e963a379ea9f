"""What all nodes of the pack share: sockets, category, and a schema for any host version."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.versions import known_fields

CATEGORY = "nested attention"
# Words of neighbouring packs, under which their users look for such a node.
NEIGHBOURS = ["ipadapter", "ip-adapter", "instantid", "pulid", "photomaker", "face id"]

NestedEncoder = io.Custom("NESTED_ENCODER")
NestedSubject = io.Custom("NESTED_SUBJECT")
AttentionRecorder = io.Custom("NESTED_ATTENTION_RECORDER")


def schema(**options: Any) -> io.Schema:
    """io.Schema without the fields that this host does not know yet."""
    return io.Schema(**known_fields(io.Schema, {"category": CATEGORY, **options}))


def folded(inputs: list[Any], *names: str) -> list[Any]:
    """The inputs, of which the editor hides some until "Show Advanced" in the node's menu."""
    for slot in inputs:
        if slot.id in names:
            slot.extra_dict = {**slot.extra_dict, "advanced": True}
    return inputs
