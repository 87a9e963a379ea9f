"""What all nodes of the pack share: sockets, category, and a schema for any host version."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "nested attention"

NestedEncoder = io.Custom("NESTED_ENCODER")
NestedSubject = io.Custom("NESTED_SUBJECT")
AttentionRecorder = io.Custom("NESTED_ATTENTION_RECORDER")

_KNOWN = {field.name for field in fields(io.Schema)}


def schema(**options: Any) -> io.Schema:
    """io.Schema without the fields that this host does not know yet."""
    return io.Schema(
        **{
            name: value
            for name, value in {"category": CATEGORY, **options}.items()
            if name in _KNOWN
        }
    )


def folded(inputs: list[Any], *names: str) -> list[Any]:
    """The inputs, of which the editor hides some until "Show Advanced" in the node's menu."""
    for slot in inputs:
        if slot.id in names:
            slot.extra_dict = {**slot.extra_dict, "advanced": True}
    return inputs
