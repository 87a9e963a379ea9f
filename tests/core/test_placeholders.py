"""Subjects' names in prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.placeholders import (
    Piece,
    clean_name,
    fold_name,
    is_name,
    missing_names_message,
    names_in,
    split_prompt,
    unknown_names,
    unknown_names_message,
)

NAMES = ("anna", "Rex")


def written(text: str, names=NAMES) -> list[str | tuple[str, str]]:
    """The pieces, text as it is and a name as (as written, as the subject is called)."""
    return [p.text if p.name is None else (p.text, p.name) for p in split_prompt(text, names)]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", []),
        ("a beach", ["a beach"]),
        ("<anna>", [("<anna>", "anna")]),
        ("a photo of <anna>.", ["a photo of ", ("<anna>", "anna"), "."]),
        ("<ANNA> and <rex>", [("<ANNA>", "anna"), " and ", ("<rex>", "Rex")]),
        ("(<anna>:1.2)", ["(", ("<anna>", "anna"), ":1.2)"]),
        ("((<anna>)) [<rex>]", ["((", ("<anna>", "anna"), ")) [", ("<rex>", "Rex"), "]"]),
        ("<anna>'s hat", [("<anna>", "anna"), "'s hat"]),
        ("<anna><rex>", [("<anna>", "anna"), ("<rex>", "Rex")]),
        ("x<anna>y", ["x", ("<anna>", "anna"), "y"]),
        ("<anna> <anna>", [("<anna>", "anna"), " ", ("<anna>", "anna")]),
        ("<<anna>>", ["<", ("<anna>", "anna"), ">"]),
        ("< anna >", ["< anna >"]),
        ("<ann>", ["<ann>"]),
        ("<annab>", ["<annab>"]),
        ("anna", ["anna"]),
        ("a < b > c", ["a < b > c"]),
        ("<lora:anna:1>", ["<lora:anna:1>"]),
        ("<anna\n>", ["<anna\n>"]),
        ("<bob> <anna>", ["<bob> ", ("<anna>", "anna")]),
        ("embedding:cat <anna>\nBREAK", ["embedding:cat ", ("<anna>", "anna"), "\nBREAK"]),
    ],
)
def test_a_prompt_is_cut_at_its_names(prompt, pieces) -> None:
    assert written(prompt) == pieces


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("Zoë", "ZOË"),
        ("Zoë", "zoe\u0308"),
        ("zoe\u0308", "Zo\u00eb"),
        ("Straße", "STRASSE"),
        ("安娜", "安娜"),
        ("अनीता", "अनीता"),
        ("สมชาย", "สมชาย"),
        ("анна", "АННА"),
        ("İpek", "İPEK"),
        ("anna-2_b", "Anna-2_B"),
        ("ａｎｎａ", "anna"),
    ],
)
def test_names_of_any_script_are_found_in_any_case(name, spelling) -> None:
    assert is_name(name)
    assert written(f"a <{spelling}>!", [name]) == ["a ", (f"<{spelling}>", name), "!"]
    assert unknown_names(f"<{spelling}>", [name]) == ()


names = st.text(
    st.characters(categories=("L", "M", "N"), include_characters="_-"), min_size=1, max_size=8
)
prose = st.text(st.characters(exclude_characters="<>"), max_size=12)


@given(st.text(st.sampled_from("<>anREx -:()é\u0301\n"), max_size=40))
def test_pieces_join_to_the_prompt(prompt) -> None:
    pieces = split_prompt(prompt, ["an", "R", "é"])
    assert "".join(piece.text for piece in pieces) == prompt
    assert all(piece.text for piece in pieces)
    for one, other in zip(pieces, pieces[1:], strict=False):
        assert one.name is not None or other.name is not None


@given(st.lists(st.tuples(prose, names), max_size=6), prose)
def test_every_name_written_is_found_in_order(parts, tail) -> None:
    known = {fold_name(name): name for _, name in parts}
    prompt = "".join(f"{text}<{name}>" for text, name in parts) + tail
    found = [p for p in split_prompt(prompt, known.values()) if p.name is not None]
    assert found == [Piece(f"<{name}>", known[fold_name(name)]) for _, name in parts]
    assert unknown_names(prompt, known.values()) == ()
    first: dict[str, str] = {}
    for _, name in parts:
        first.setdefault(fold_name(name), name)
    assert unknown_names(prompt, []) == tuple(first.values())


@given(names)
def test_folding_a_name_twice_changes_nothing(name) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


def test_names_in_a_prompt_come_once_in_order() -> None:
    assert names_in("<rex> <anna> <REX> <bob>", NAMES) == ("Rex", "anna")
    assert names_in("nobody", NAMES) == ()


def test_unknown_names_come_once_as_written_and_are_names_only() -> None:
    prompt = "<Bob> <anna> <bob> <lora:x:1> <b/> <eve> < eve >"
    assert unknown_names(prompt, NAMES) == ("Bob", "eve")


@pytest.mark.parametrize(
    ("unknown", "known", "message"),
    [
        (
            ["bob"],
            NAMES,
            "The prompt names <bob>, which no subject has; known names are <anna>, <Rex>.",
        ),
        (
            ["ana"],
            NAMES,
            "The prompt names <ana>, which no subject has; known names are <anna>, <Rex> "
            "(perhaps <anna> is meant).",
        ),
        (
            ["bob", "eve"],
            ["zoe1"],
            "The prompt names <bob>, <eve>, which no subjects have; known names are <zoe1>.",
        ),
        (
            ["bob"],
            [],
            "The prompt names <bob>, which no subject has; connect a subject, or remove the "
            "angle brackets.",
        ),
    ],
)
def test_the_message_on_unknown_names(unknown, known, message) -> None:
    assert unknown_names_message(unknown, known) == message


def test_the_message_on_missing_names() -> None:
    assert missing_names_message(["Rex"]) == (
        "No prompt names the subject <Rex>; write <Rex> where it should appear (where prompts are "
        "joined, in conditioning_to)."
    )
    assert missing_names_message(NAMES) == (
        "No prompt names the subjects <anna>, <Rex>; write each name, with its angle brackets, "
        "where the subject should appear (where prompts are joined, in conditioning_to)."
    )


@pytest.mark.parametrize("text", ["anna", " anna ", "<anna>", " < anna > "])
def test_a_name_is_cleaned(text) -> None:
    assert clean_name(text) == "anna"


@pytest.mark.parametrize(
    "text",
    ["", " ", "<>", "two words", "a:b", "a<b", "anna>", "a,b", "a.b", "(anna)", "a\tb", "🙂"],
)
def test_what_cannot_be_a_name_is_refused(text) -> None:
    assert not is_name(text)
    with pytest.raises(NestedAttentionError, match="cannot be a subject's name; use letters"):
        clean_name(text)
