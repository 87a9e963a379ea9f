"""What the further shipped workflows promise, each through the real server."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from driving import MUTED, Graph, api_form, changed, set_mode
from host_server import HostServer, node_of
from pack import ROOT
from test_two_subjects import pixels

EXAMPLE = "NestedAttentionExamplePicture"
COUNT = itertools.count()


def drawn(server: HostServer, graph: Graph) -> np.ndarray:
    """The only picture of a graph, (H, W, 3), 0 to 255."""
    # The host shows no picture of a node that it has cached; a new name makes it save again.
    graph = changed(graph, "SaveImage", filename_prefix=f"drawn-{next(COUNT)}")
    (image,) = pixels(server, graph, server.run(graph))
    return image.astype(np.int16)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def document_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["two_people", "person_pet_background", "saved_subjects", "inpaint_subject"]
)
def test_every_picture_comes_with_the_pack(name):
    assert "LoadImage" not in {node["type"] for node in document_of(name)["nodes"]}


def test_two_people_each_change_their_own_half(server, workflow):
    graph = workflow("two_people.json")
    image = drawn(server, graph)
    left, right = np.s_[:, :60], np.s_[:, 68:]
    for title, own, other in (
        ("Reference of Anna", left, right),
        ("Reference of Ben", right, left),
    ):
        swapped = drawn(server, changed(graph, EXAMPLE, title, picture="person 2"))
        assert distance(swapped[own], image[own]) > 3 * distance(swapped[other], image[other])
        assert distance(swapped[own], image[own]) > 2


def test_person_and_pet_by_name_and_the_background_by_its_region(server, workflow):
    graph = workflow("person_pet_background.json")
    image = drawn(server, graph)
    sky, ground = np.s_[:40], np.s_[56:]
    other_sky = drawn(
        server,
        changed(
            graph,
            "NestedAttentionPrompt",
            "Prompt of the background",
            text="a person and a kitten, city",
        ),
    )
    assert distance(other_sky[sky], image[sky]) > 8 * distance(other_sky[ground], image[ground])
    for title, picture in (
        ("Reference of the person", "person 8"),
        ("Reference of the kitten", "kitten 2"),
    ):
        swapped = drawn(server, changed(graph, EXAMPLE, title, picture=picture))
        assert distance(swapped[ground], image[ground]) > 3 * distance(swapped[sky], image[sky])


def test_a_saved_subject_draws_the_same_picture(server, workflow):
    graph = workflow("saved_subjects.json")
    image = drawn(server, graph)
    document = document_of("saved_subjects")
    set_mode(document, "A.", MUTED)
    set_mode(document, "B.", 0)
    loading = api_form(document, server.get("/object_info"))
    kinds = {node["class_type"] for node in loading.values()}
    assert "NestedAttentionLoadSubject" in kinds
    assert not kinds & {"NestedAttentionEncodeSubject", "NestedAttentionSaveSubject", EXAMPLE}
    steps = graph[node_of(graph, "KSampler")]["inputs"]["steps"]
    loading = changed(loading, "KSampler", steps=steps)
    assert np.array_equal(drawn(server, loading), image)
    without = changed(loading, "NestedAttentionApply", strength=0.0)
    assert distance(drawn(server, without), image) > 2


@pytest.fixture(scope="module")
def inpaint(workflow) -> Graph:
    return workflow("inpaint_subject.json")


def hole_of(graph: Graph) -> np.ndarray:
    """bool (128, 128)"""
    corner = graph[node_of(graph, "MaskComposite", "Hole")]["inputs"]
    size = graph[node_of(graph, "SolidMask", "Hole: size")]["inputs"]
    hole = np.zeros((128, 128), dtype=bool)
    hole[corner["y"] : corner["y"] + size["height"], corner["x"] : corner["x"] + size["width"]] = 1
    return hole


def saving(graph: Graph, source: str) -> Graph:
    """The graph, saving the picture of a node of this kind instead of its end."""
    return changed(graph, "SaveImage", images=[node_of(graph, source), 0])


def test_inpainting_leaves_the_photo_as_it_is_outside_the_hole(server, inpaint):
    hole = hole_of(inpaint)
    photo = drawn(server, saving(inpaint, "ImageScale"))
    image = drawn(server, inpaint)
    assert np.abs(image - photo)[~hole].max() <= 1  # the rounding of a saved picture
    assert distance(image[hole], photo[hole]) > 20
    # Before it is laid over the photo: only the autoencoder's loss, at some way from the hole.
    away, raw = np.s_[:, :32], saving(inpaint, "VAEDecode")
    assert distance(drawn(server, raw)[away], photo[away]) < 8
    unmasked = changed(raw, "KSampler", latent_image=[node_of(raw, "VAEEncode"), 0])
    assert distance(drawn(server, unmasked)[away], photo[away]) > 16


def test_inpainting_puts_the_reference_s_subject_into_the_hole(server, inpaint):
    hole, image = hole_of(inpaint), drawn(server, inpaint)
    other = drawn(server, changed(inpaint, EXAMPLE, "Reference", picture="kitten 2"))
    plain = drawn(server, changed(inpaint, "NestedAttentionApply", strength=0.0))
    for drawing in (other, plain):
        assert distance(drawing[hole], image[hole]) > 5
