"""The promise to saved workflows, and texts for everything that a user sees."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from node_schema import ENGLISH, RENEW, SNAPSHOT, as_text, breaks, english, frozen

from .conftest import host_nodes, pack

PREFIX = "NestedAttention"


@pytest.fixture(scope="module")
def schemas(host) -> list[Any]:
    found = [
        node.GET_SCHEMA()
        for name, node in host_nodes.NODE_CLASS_MAPPINGS.items()
        if name.startswith(PREFIX)
    ]
    assert len(found) >= 12
    return found


@pytest.fixture(scope="module")
def promised() -> dict[str, Any]:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_saved_workflows_still_open(schemas, promised):
    replaced = {item.old_node_id for item in pack("nodes.replaced").REPLACED}
    assert breaks(promised, frozen(schemas), replaced) == []


def test_the_promise_is_up_to_date(schemas, promised):
    assert frozen(schemas) == promised, f"new inputs or nodes: run `{RENEW}` and commit"


def test_the_english_texts_are_those_of_the_nodes(schemas):
    written = ENGLISH.read_text(encoding="utf-8")
    assert written == as_text(english(schemas)), f"texts have changed: run `{RENEW}` and commit"


def apply_inputs(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema[f"{PREFIX}Apply"]["inputs"]


BREAKING: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "node gone": (lambda s: s.pop(f"{PREFIX}Apply"), "NestedAttentionApply is gone"),
    "renamed": (lambda s: apply_inputs(s)[3].update(name="weight"), "leave the others in place"),
    "moved": (lambda s: apply_inputs(s).reverse(), "leave the others in place"),
    "inserted": (
        lambda s: apply_inputs(s).insert(4, {"name": "new", "type": "INT", "optional": True}),
        "leave the others in place",
    ),
    "other type": (lambda s: apply_inputs(s)[3].update(type="INT"), "was FLOAT and is INT"),
    "required": (lambda s: apply_inputs(s)[-1].update(optional=False), "was optional"),
    "new and required": (
        lambda s: apply_inputs(s).append({"name": "new", "type": "INT", "optional": False}),
        "new is new and must be optional",
    ),
    "fewer options": (lambda s: apply_inputs(s)[6].update(options=["text"]), "lost the options"),
    "narrower": (lambda s: apply_inputs(s)[3].update(max=1.5), "narrower limits"),
    "new limit": (lambda s: apply_inputs(s)[3].update(min=0.1), "narrower limits"),
    "other default": (lambda s: apply_inputs(s)[3].update(default=0.5), "has the default 0.5"),
    "output moved": (lambda s: s[f"{PREFIX}Apply"]["outputs"].reverse(), "outputs"),
}


@pytest.mark.parametrize("case", BREAKING)
def test_what_would_break_a_workflow_is_told(promised, case):
    change, expected = BREAKING[case]
    after = copy.deepcopy(promised)
    change(after)
    (told,) = breaks(promised, after)
    assert expected in told


def test_what_is_only_added_breaks_nothing(promised):
    after = copy.deepcopy(promised)
    apply_inputs(after).append({"name": "new", "type": "INT", "optional": True})
    apply_inputs(after)[3].update(max=3.0)
    apply_inputs(after)[6]["options"].append("new")
    after["NestedAttentionNew"] = {"inputs": [], "outputs": []}
    assert breaks(promised, after) == []


def test_a_node_may_go_where_another_replaces_it(promised):
    after = {name: node for name, node in promised.items() if name != f"{PREFIX}Apply"}
    assert breaks(promised, after, {f"{PREFIX}Apply"}) == []


# Replaced nodes


def test_replacements_lead_from_a_promised_node_to_a_present_one(schemas):
    present = {schema.node_id: schema for schema in schemas}
    for item in pack("nodes.replaced").REPLACED:
        assert item.old_node_id not in present
        inputs = {slot.id for slot in present[item.new_node_id].inputs}
        assert {entry["new_id"] for entry in item.input_mapping} <= inputs


def test_the_host_learns_of_a_replacement_where_it_can(host):
    replaced = pack("nodes.replaced")
    item = replaced.Replaced(f"{PREFIX}Apply", f"{PREFIX}ApplyOfATest", ["strength"])
    told = asyncio.run(replaced.register((item,)))
    # The list came to the host in 0.14; an older one is left in peace.
    assert told is hasattr(pack("nodes.sockets").io, "NodeReplace")
    asyncio.run(pack("nodes.extension").NestedAttentionExtension().on_load())


# Texts


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def test_every_node_says_what_it_does(schemas):
    for schema in schemas:
        assert schema.display_name and sentences(schema.description) >= 1, schema.node_id
        assert schema.category == "nested attention"


def test_every_input_and_output_has_one_or_two_plain_sentences(schemas):
    slots = {
        f"{schema.node_id}.{slot.id}": slot.tooltip or ""
        for schema in schemas
        for slot in (*schema.inputs, *schema.outputs)
    }
    odd = {
        name: text
        for name, text in slots.items()
        if not (text[:1].isupper() and text.endswith(".") and sentences(text) in (1, 2))
    }
    assert odd == {}
    assert {name: len(text) for name, text in slots.items() if len(text) > 240} == {}


def test_a_new_host_offers_the_words_of_neighbouring_packs(schemas):
    if not hasattr(schemas[0], "search_aliases"):
        pytest.skip("this host has no search aliases (before 0.10)")
    for name in ("LoadEncoder", "EncodeSubject", "CombineSubjects", "Apply"):
        (schema,) = (schema for schema in schemas if schema.node_id == PREFIX + name)
        assert {"ipadapter", "instantid", "pulid", "photomaker"} <= set(schema.search_aliases)


def test_every_node_has_words_to_be_found_by(host, monkeypatch):
    """On every host: what the nodes hand over, before an old host's schema drops it."""
    real = pack("nodes.sockets").schema
    handed: dict[str, list[str]] = {}

    def noted(**options: Any) -> Any:
        handed[options["node_id"]] = options["search_aliases"]
        return real(**options)

    for name, node in host.NODE_CLASS_MAPPINGS.items():
        if name.startswith(PREFIX):
            monkeypatch.setattr(sys.modules[node.__module__], "schema", noted)
            node.define_schema()
            assert name in handed
    for name, words in handed.items():
        assert len(words) >= 3 and len(set(words)) == len(words), name
    assert {"ipadapter", "instantid", "pulid"} <= set(handed[f"{PREFIX}Apply"])
