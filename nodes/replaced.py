"""Nodes that were given up, and what stands in their place in saved workflows.

Hosts from 0.14 on offer the reader of such a workflow the new node; older ones show the old id as
missing. None has been given up so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_api import latest


@dataclass(frozen=True)
class Replaced:
    """One old node; the fields are those of the host's NodeReplace.

    old_widget_ids: the old node's widgets in their order, as saved workflows list their values.
    input_mapping: {"new_id": ..., "old_id": ...} or {"new_id": ..., "set_value": ...} each.
    output_mapping: {"new_idx": ..., "old_idx": ...} each.
    """

    new_node_id: str
    old_node_id: str
    old_widget_ids: list[str] = field(default_factory=list)
    input_mapping: list[dict[str, Any]] = field(default_factory=list)
    output_mapping: list[dict[str, Any]] = field(default_factory=list)


REPLACED: tuple[Replaced, ...] = ()


async def register(replaced: tuple[Replaced, ...] = REPLACED) -> bool:
    """Tells the host of them; False where it has no such list (before 0.14)."""
    described: Any = getattr(latest.io, "NodeReplace", None)
    listing: Any = getattr(latest.ComfyAPI(), "node_replacement", None)
    if described is None or listing is None:
        return False
    for item in replaced:
        await listing.register(
            described(
                new_node_id=item.new_node_id,
                old_node_id=item.old_node_id,
                old_widget_ids=item.old_widget_ids or None,
                input_mapping=item.input_mapping or None,
                output_mapping=item.output_mapping or None,
            )
        )
    return True
