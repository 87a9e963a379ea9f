"""What is of no use on a socket or in a widget, as fuzzing found it: one sentence each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import World, pack
from .test_bad_input import IMAGE, sentence

GREY = torch.full((1, 64, 64, 3), 0.5)


def node(host: Any, name: str) -> Any:
    return host.NODE_CLASS_MAPPINGS[f"NestedAttention{name}"]


@pytest.mark.parametrize("value", [None, "text", 5, {}, torch.zeros(1)], ids=repr)
@pytest.mark.parametrize(
    ("kind", "socket"),
    [
        ("Apply", "model"), ("Apply", "clip"), ("Apply", "subject"), ("Prompt", "clip"),
        ("EncodeSubject", "encoder"), ("EncodeSubject", "clip_vision"), ("Watch", "model"),
        ("Maps", "recorder"), ("SubjectSettings", "subject"), ("SaveSubject", "subject"),
        ("LoadSubject", "encoder"), ("TrainEncoder", "vae"),
    ],
)  # fmt: skip
def test_sockets(host: Any, sd15: World, kind: str, socket: str, value: Any) -> None:
    rest = {
        "Apply": {"model": sd15.model, "clip": sd15.clip, "subject": None, "strength": 1.0},
        "Prompt": {"text": "a"},
        "EncodeSubject": {
            "encoder": sd15.encoder, "clip_vision": sd15.vision, "image": IMAGE, "name": "anna",
        },
        "Maps": {"image": GREY, "steps": "all", "layers": "all"},
        "SaveSubject": {"filename": ""},
        "LoadSubject": {"subject_name": "x"},
    }.get(kind, {})  # fmt: skip
    if kind == "Apply" and socket != "subject":
        rest["subject"] = sd15.subject()
    with pytest.raises(ValueError) as error:
        node(host, kind).execute(**{**rest, socket: value})
    assert f'comes in at "{socket}"' in sentence(error)


@pytest.mark.parametrize("value", ["mask", 5, {}], ids=repr)
def test_optional_sockets(host: Any, sd15: World, value: Any) -> None:
    for name in ("crop_mask", "join"):
        with pytest.raises(ValueError) as error:
            node(host, "EncodeSubject").execute(
                sd15.encoder, sd15.vision, IMAGE, "anna", **{name: value}
            )
        assert f'comes in at "{name}"' in sentence(error)
    with pytest.raises(ValueError) as error:
        sd15.apply(sd15.subject(), mask=value)
    assert 'comes in at "mask"' in sentence(error)
    with pytest.raises(ValueError) as error:
        node(host, "CombineSubjects").execute(subject_1=sd15.subject(), subject_2=value)
    assert 'comes in at "subject_2"' in sentence(error)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "There is no"), ("text", "There is no"), (torch.zeros(64, 64, 3), "There is no"),
        (torch.zeros(1, 0, 64, 3), "64 x 0 pixels"), (torch.zeros(1, 64, 64, 2), "2 channels"),
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 64, 64, 3, dtype=torch.complex64), "torch.complex64"),
        (torch.full((1, 64, 64, 3), float("inf")), "NaN or infinite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_pictures(
    host: Any, sd15: World, tmp_path: Path, monkeypatch: Any, image: Any, says: str
) -> None:
    import folder_paths

    places = ([str(tmp_path / "subjects")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "nested_subjects", places)
    watcher = pack("nodes.host.watching").Watcher()
    miniature = node(host, "LoadMiniature").execute().result
    numbers = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3, "tokens": 4, "width": 64}
    rest = {"depth": 1, "token_weight": 1.0, "seed": 0, "gradient_checkpointing": False}
    attempts = [
        lambda: node(host, "EncodeSubject").execute(sd15.encoder, sd15.vision, image, "anna"),
        lambda: node(host, "Maps").execute(watcher, image, "all", "all"),
        lambda: node(host, "TrainEncoder").execute(
            *miniature, image, "a <subject>", "person", **numbers, **rest
        ),
    ]
    if image is not None:
        attempts.append(lambda: node(host, "SaveSubject").execute(sd15.subject(), "", image))
    for attempt in attempts:
        with pytest.raises(ValueError) as error:
            attempt()
        assert says in sentence(error)
    assert not (tmp_path / "subjects").exists()


def test_pictures_of_any_floating_type(host: Any, sd15: World) -> None:
    encode = node(host, "EncodeSubject").execute
    tokens = encode(sd15.encoder, sd15.vision, IMAGE, "anna").result[0].tokens
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        same = encode(sd15.encoder, sd15.vision, IMAGE.to(dtype), "anna").result[0].tokens
        assert (same - tokens).abs().max() < 0.1 * tokens.std()


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(5), "has shape"), (torch.ones(0, 48, 40), "has shape"),
        (torch.full((1, 48, 40), float("nan")), "NaN or infinite"),
        (torch.ones(1, 48, 40, dtype=torch.complex64), "no mask"),
    ],
    ids=["one line", "no mask", "NaN", "complex"],
)  # fmt: skip
def test_crop_masks(host: Any, sd15: World, mask: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError) as error:
        node(host, "EncodeSubject").execute(
            sd15.encoder, sd15.vision, IMAGE, "anna", crop_mask=mask
        )
    assert says in sentence(error)


@pytest.mark.parametrize("name", [None, 5, 0.5, True, {}, {"a": 1}, ["x"]], ids=repr)
def test_file_names_that_are_no_text(host: Any, sd15: World, name: Any) -> None:
    for attempt in (
        lambda: node(host, "LoadEncoder").execute(name),
        lambda: node(host, "LoadSubject").execute(sd15.encoder, name),
    ):
        with pytest.raises(ValueError) as error:
            attempt()
        assert "There is no" in sentence(error)


@pytest.mark.parametrize("value", ["x", "", None, 3, {}], ids=repr)
def test_choices_that_are_none(host: Any, sd15: World, value: Any) -> None:
    watcher = pack("nodes.host.watching").Watcher()
    for steps, layers in ((value, "all"), ("all", value)):
        with pytest.raises(ValueError) as error:
            node(host, "Maps").execute(watcher, GREY, steps, layers)
        assert "choose all or one of" in sentence(error)
    with pytest.raises(ValueError) as error:
        sd15.apply(sd15.subject(), norm=value)
    assert "Norm control" in sentence(error)


@pytest.mark.parametrize(
    "name", ["a\0b", "a\nb", "\x1b[31mred", "\u202eanna", "\ud800", "<" * 9999]
)
def test_messages_stay_one_printable_line(host: Any, sd15: World, name: str) -> None:
    with pytest.raises(ValueError) as error:
        node(host, "EncodeSubject").execute(sd15.encoder, sd15.vision, IMAGE, name)
    text = sentence(error)
    assert text.isprintable() and len(text) <= 1000 and "cannot be a subject's name" in text


def test_a_trained_encoder_that_cannot_be_saved_is_not_lost(
    host: Any, sd15: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    training = pack("nodes.host.graph_training")
    with caplog.at_level(logging.ERROR, "nested_attention"):
        training.save_trained(sd15.encoder, tmp_path / "file" / "x.safetensors")
    assert "cannot be saved as models/nested_attention/x.safetensors" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_brackets_nested_too_deeply(host: Any, sd15: World) -> None:
    deep = "(" * 1000 + "<anna>" + ")" * 1000
    _, clip = sd15.apply(sd15.subject())
    for attempt in (
        lambda: sd15.encode(deep, clip),
        lambda: node(host, "Prompt").execute(clip, deep),
        lambda: node(host, "Prompt").execute(sd15.clip, deep),
    ):
        with pytest.raises(ValueError) as error:
            attempt()
        assert "nests its brackets too deeply" in sentence(error)


@pytest.mark.parametrize("text", ["a (<anna>:nan)", "a (red:inf) <anna>", "a (red:nan) cat"])
def test_weights_of_which_only_nan_could_come(host: Any, sd15: World, text: str) -> None:
    _, clip = sd15.apply(sd15.subject())
    for attempt in (
        lambda: sd15.encode(text, clip),
        lambda: node(host, "Prompt").execute(clip, text),
    ):
        with pytest.raises(ValueError) as error:
            attempt()
        assert "write a number after the colon" in sentence(error)


@pytest.mark.parametrize("text", ["\ud800", "a <anna> \udfff smiling"])
def test_half_a_character(host: Any, sd15: World, text: str) -> None:
    clip = sd15.apply(sd15.subject())[1]
    for encode in (node(host, "Prompt").execute, host.CLIPTextEncode().encode):
        with pytest.raises(ValueError) as error:
            encode(clip, text)
        assert "holds half a character (\\ud" in sentence(error)


def test_an_input_that_a_node_does_not_have(host: Any, sd15: World) -> None:
    with pytest.raises(ValueError) as error:
        node(host, "Watch").execute(model=sd15.model, other=5)
    assert 'has no input "other"' in sentence(error)
