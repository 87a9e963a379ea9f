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
