"""What a user reads after a mistake, as it comes back over HTTP."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import pytest
from PIL import Image

from driving import Graph, changed, first_reference
from host_server import HostError, HostServer, node_of
from pack import ROOT

PROMPT = "NestedAttentionPrompt"
ENCODER = ("NestedAttentionLoadEncoder", "Encoder for people")
PERSON = ("LoadImage", "Reference of the person")


def message(server: HostServer, graph: Graph) -> str:
    """The one message of a job that must fail, without the node's name."""
    with pytest.raises(HostError) as caught:
        server.run(graph)
    text = str(caught.value)
    assert "Traceback" not in text and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<anna> and <rex> and <bob>, beach", "<bob>, which no subject has"),
        ("<anna> and <rexx>, beach", "perhaps <rex> is meant"),
        ("", "The prompt is empty"),
    ],
)
def test_prompts(server, graph, text, expected):
    assert expected in message(server, changed(graph, PROMPT, text=text))


def test_subjects_that_the_prompt_does_not_name_are_reported(server, graph):
    entry = server.run(changed(graph, PROMPT, text="a person and <rex>, forest"))
    (report,) = entry["outputs"][node_of(graph, PROMPT)]["text"]
    (left_out,) = (line for line in report.splitlines() if "not named in this prompt" in line)
    assert "anna" in left_out


def test_two_subjects_of_one_name(server, graph):
    twins = changed(graph, "NestedAttentionEncodeSubject", "Subject <rex>", name="Anna")
    assert "anna" in message(server, twins).lower()


@pytest.mark.parametrize("name", ["", "two words", "<>"])
def test_names_that_no_prompt_could_write(server, graph, name):
    bad = changed(graph, "NestedAttentionEncodeSubject", "Subject <rex>", name=name)
    assert message(server, bad).startswith("NestedAttentionEncodeSubject: ")


def truncated() -> bytes:
    return (ROOT / "models" / "person.safetensors").read_bytes()[:-1000]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda: pickle.dumps({"weights": [1, 2]}), "pickle"),
        (lambda: b"", "empty"),
        (truncated, "truncated"),
        (lambda: (ROOT / "models" / "miniature.safetensors").read_bytes(), "miniature"),
        (lambda: b"\x89PNG nothing more", "safetensors"),
    ],
    ids=["pickle", "empty", "truncated", "miniature", "png"],
)
def test_files_that_are_no_encoder(server, graph, content: Callable[[], bytes], expected, request):
    name = f"{request.node.callspec.id}.safetensors"
    (server.base / "models" / "nested_attention" / name).write_bytes(content())
    told = message(server, changed(graph, *ENCODER, encoder_name=name))
    assert name in told and expected in told


def test_an_encoder_that_is_not_there(server, graph):
    told = message(server, changed(graph, *ENCODER, encoder_name="gone.safetensors"))
    assert "gone.safetensors" in told


def test_a_reference_of_one_pixel(server, graph, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    small = changed(graph, *PERSON, image=server.upload(tmp_path / "pixel.png"))
    assert "1 x 1 pixels, too small" in message(server, small)


def test_a_reference_that_is_not_there(server, graph):
    told = message(server, changed(graph, *PERSON, image="gone.png"))
    assert "gone.png" in told


def test_after_every_mistake_the_server_still_works(server, graph):
    message(server, changed(graph, PROMPT, text="<nobody>"))
    again = changed(graph, *PERSON, image=server.upload(first_reference("person"), "again.png"))
    entry = server.run(again)
    (image,) = server.images(entry, "15")
    assert Image.open(io.BytesIO(image)).size == (128, 128)
