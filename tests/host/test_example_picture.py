"""Example Picture: every name that it offers is a picture, and another one is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands.pack import ROOT

from .test_bad_input import sentence


@pytest.fixture(scope="module")
def node(host: Any) -> Any:
    return host.NODE_CLASS_MAPPINGS["NestedAttentionExamplePicture"]


def test_every_picture_that_is_offered_is_the_file_in_the_pack(node: Any) -> None:
    (offered,) = node.GET_SCHEMA().inputs
    assert {name.split()[0] for name in offered.options} == {"person", "kitten", "robot", "photo"}
    assert len(offered.options) == len(set(offered.options)) == 28
    for name in offered.options:
        (pixels,) = node.execute(name).result
        path = ROOT / "models" / "references" / (name.replace(" ", "/") + ".png")
        with Image.open(path) as image:
            expected = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
        assert pixels.dtype == torch.float32 and torch.equal(pixels, expected[None])


def test_a_picture_that_is_not_there_is_told(node: Any) -> None:
    with pytest.raises(Exception) as caught:
        node.execute("person 99")
    assert 'no example picture "person 99"' in sentence(caught)
