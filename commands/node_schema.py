"""The frozen schema of the nodes, and the English texts that translations follow.

Saved workflows know nodes by id, sockets by name and widgets by position. tests/host/schema.json
holds what has been promised; this command renews it, and refuses what would break a workflow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pack import ROOT, module, start_host

SNAPSHOT = ROOT / "tests" / "host" / "schema.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
RENEW = "python3 dev.py schema"
# Lists of files in a user's folders.
FROM_FILES = {"encoder_name", "subject_name"}
KEPT = ("default", "min", "max", "step", "multiline", "options")


def schemas_of_pack() -> list[Any]:
    """The schema of every node, without a server; `start_host` first."""
    extension = module("nodes.extension").NestedAttentionExtension()
    return [node.GET_SCHEMA() for node in asyncio.run(extension.get_node_list())]


def replaced_in_pack() -> set[str]:
    """Ids of nodes that another node replaces."""
    return {item.old_node_id for item in module("nodes.replaced").REPLACED}


def frozen(schemas: Iterable[Any]) -> dict[str, Any]:
    """What a saved workflow relies on: {node id: inputs and outputs in their order}."""
    return {
        schema.node_id: {
            "inputs": [_frozen_input(slot) for slot in schema.inputs],
            "outputs": [
                {"name": slot.id, "shown": slot.display_name, "type": slot.get_io_type()}
                for slot in schema.outputs
            ],
        }
        for schema in sorted(schemas, key=lambda schema: schema.node_id)
    }


def _frozen_input(slot: Any) -> dict[str, Any]:
    options = slot.as_dict()
    kept = {key: options[key] for key in KEPT if options.get(key) is not None}
    if slot.id in FROM_FILES:
        kept.pop("options", None)
    return {
        "name": slot.id,
        "type": slot.get_io_type(),
        "optional": bool(slot.optional),
        **kept,
    }


def breaks(
    before: dict[str, Any], after: dict[str, Any], replaced: Collection[str] = ()
) -> list[str]:
    """What of `after` a workflow saved under `before` cannot be opened or run with."""
    found = []
    for node, old in before.items():
        if node not in after:
            if node not in replaced:
                found.append(f"{node} is gone; keep it, or name its successor in nodes/replaced.py")
            continue
        for kind in ("inputs", "outputs"):
            found += _broken_slots(f"{node}.{kind}", old[kind], after[node][kind])
        for slot in after[node]["inputs"][len(old["inputs"]) :]:
            if not slot["optional"]:
                found.append(f"{node}.inputs: {slot['name']} is new and must be optional")
    return found


def _broken_slots(place: str, before: list[Any], after: list[Any]) -> list[str]:
    names = [slot["name"] for slot in before]
    now = [slot["name"] for slot in after]
    if now[: len(names)] != names:
        return [f"{place}: {names} became {now}; append new ones and leave the others in place"]
    found = []
    for old, new in zip(before, after, strict=False):
        where = f"{place}.{old['name']}"
        if old["type"] != new["type"]:
            found.append(f"{where} was {old['type']} and is {new['type']}")
        if old.get("optional") and not new.get("optional"):
            found.append(f"{where} was optional and is not any more")
        gone = [item for item in old.get("options", []) if item not in new.get("options", [])]
        if gone:
            found.append(f"{where} lost the options {gone}")
        if _narrower(old, new):
            found.append(f"{where} has narrower limits than before")
        if old.get("default") != new.get("default"):
            found.append(f"{where} has the default {new.get('default')!r}, not {old['default']!r}")
    return found


def _narrower(old: dict[str, Any], new: dict[str, Any]) -> bool:
    least, most = new.get("min"), new.get("max")
    return (least is not None and old.get("min", least) < least) or (
        most is not None and old.get("max", most) > most
    )


def english(schemas: Iterable[Any]) -> dict[str, Any]:
    """The texts of all nodes under the keys that the editor looks up (nodeDefs)."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                slot.id: {"name": slot.id, "tooltip": slot.tooltip} for slot in schema.inputs
            },
            "outputs": {
                str(index): {"name": slot.display_name, "tooltip": slot.tooltip}
                for index, slot in enumerate(schema.outputs)
            },
        }
        for schema in sorted(schemas, key=lambda schema: schema.node_id)
    }


def as_text(content: Any) -> str:
    """JSON as the files in this repository have it."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(content), encoding="utf-8", newline="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="dev.py schema")
    parser.add_argument(
        "--breaking", action="store_true", help="renew although saved workflows will break"
    )
    wanted = parser.parse_args()
    start_host(cpu=True)
    schemas = schemas_of_pack()
    before = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    found = breaks(before, frozen(schemas), replaced_in_pack())
    if found and not wanted.breaking:
        print("Not renewed; saved workflows would break:", *found, sep="\n  ", file=sys.stderr)
        return 1
    write(SNAPSHOT, frozen(schemas))
    write(ENGLISH, english(schemas))
    print(f"{len(schemas)} nodes in {SNAPSHOT.name}; now complete locales/ and web/docs/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
