"""Save Subject and Load Subject: in the host's executor, and against what a user may type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from .conftest import World, pack, running, write_encoder
from .sink import sink
from .test_bad_input import sentence

FILE = "saving test.safetensors"
PICTURE = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where subjects are saved during a test."""
    import folder_paths

    folder = tmp_path / "subjects"
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "nested_subjects", ([str(folder)], {".safetensors"})
    )
    return folder


def save(host: Any, subject: Any, filename: str = "", thumbnail: Any = None) -> str:
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionSaveSubject"]
    return node.execute(subject, filename, thumbnail).result[1]


def load(host: Any, encoder: Any, subject_name: str, name: str = "") -> Any:
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionLoadSubject"]
    return node.execute(encoder, subject_name, name).result[0]


def test_the_host_knows_the_folder_and_offers_only_subjects(host: Any) -> None:
    import folder_paths

    paths, extensions = folder_paths.folder_names_and_paths["nested_subjects"]
    assert Path(paths[-1]).parts[-2:] == ("models", "nested_subjects")
    assert extensions == {".safetensors"} and Path(paths[-1]).is_dir()


def test_a_saved_subject_is_the_subject(sd15: World, host: Any, folder: Path) -> None:
    subject = sd15.subject()
    assert save(host, subject) == "anna: saved as anna.safetensors in models/nested_subjects"
    assert pack("nodes.host.subject_files").subject_names() == ["anna.safetensors"]
    loaded = load(host, sd15.encoder, "anna.safetensors")
    assert loaded.fingerprint == subject.fingerprint

    def picture(one: Any) -> torch.Tensor:
        model, clip = sd15.apply(one)
        return sd15.sample(sd15.encode("a <anna>", clip), sd15.encode("", clip), model)

    assert torch.equal(picture(loaded), picture(subject))
    assert load(host, sd15.encoder, "anna.safetensors", "<bob>").name == "bob"


def test_nothing_is_written_over(sd15: World, host: Any, folder: Path) -> None:
    first = sd15.subject(seed=1)
    save(host, first, "a b", PICTURE)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = save(host, sd15.subject(seed=2), "a b.safetensors")
    assert "a b_2.safetensors" in report and "because a b is there already" in report
    # A PNG that someone else put there is not written over either.
    (folder / "a b_3.png").write_bytes(b"mine")
    save(host, sd15.subject(seed=3), "a b", PICTURE)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a b.png", "a b.safetensors", "a b_2.safetensors", "a b_3.png", "a b_4.png",
        "a b_4.safetensors",
    ]  # fmt: skip
    for name, before in content.items():
        assert (folder / name).read_bytes() == before
    assert (folder / "a b_3.png").read_bytes() == b"mine"
    assert load(host, sd15.encoder, "a b.safetensors").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "filename",
    ["../x", "..", "/etc/x", "a/b", "a\\b", "C:x", "x\0", "a\nb", "NUL", "com1.x", ".hidden", "a.",
     "x" * 300, "~", "$HOME", "a:b", "…/x", "%2e%2e", "x..", "CON .x", "COM¹", "lpt².y"],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(
    sd15: World, host: Any, folder: Path, filename: str
) -> None:
    with pytest.raises(ValueError) as error:
        save(host, sd15.subject(), filename, PICTURE)
    assert "is no name for a file" in str(error.value)
    assert not folder.exists() and [p.name for p in folder.parent.iterdir()] == []


def test_links_in_the_folder_are_not_followed(
    sd15: World, host: Any, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    laid = ["anna.safetensors", "anna_2.png", "anna_3.safetensors.part", "anna_3.png.part"]
    try:
        for name in laid:
            (folder / name).symlink_to(outside if name != "anna_2.png" else tmp_path / "nowhere")
    except OSError:
        pytest.skip("this system allows no links")
    assert "saved as anna_3.safetensors" in save(host, sd15.subject(), "anna", PICTURE)
    assert outside.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    for name in ("anna_3.safetensors", "anna_3.png"):
        assert (folder / name).is_file() and not (folder / name).is_symlink()


@pytest.mark.parametrize("filename", ["anna", "änna 2", "v1.5 anna", "名前", "a-b_c", " anna "])
def test_ordinary_names_are_kept(sd15: World, host: Any, folder: Path, filename: str) -> None:
    save(host, sd15.subject(), filename)
    assert [path.name for path in folder.iterdir()] == [f"{filename.strip()}.safetensors"]


def test_a_failure_leaves_nothing(
    sd15: World, host: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pack("nodes.host.subject_files")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_subject", fail)
    with pytest.raises(ValueError) as error:
        save(host, sd15.subject())
    assert "No space left" in sentence(error)
    assert list(folder.iterdir()) == []


def test_several_subjects_are_not_one(sd15: World, host: Any, folder: Path) -> None:
    both = pack("nested_attn_core.subject").Subjects.of(sd15.subject(), sd15.subject("rex"))
    with pytest.raises(ValueError) as error:
        save(host, both)
    assert "2 subjects" in sentence(error) and not folder.exists()


@pytest.mark.parametrize("name", ["gone.safetensors", "../../models/x.safetensors", "", "/etc/x"])
def test_a_subject_that_is_not_there(sd15: World, host: Any, folder: Path, name: str) -> None:
    with pytest.raises(ValueError) as error:
        load(host, sd15.encoder, name)
    assert "no saved subject" in str(error.value)


def test_files_that_are_no_subject(sd15: World, host: Any, folder: Path) -> None:
    folder.mkdir()
    write_encoder(folder / "e.safetensors", sd15.model.model.diffusion_model, sd15.vision, "sd15")
    with pytest.raises(ValueError) as error:
        load(host, sd15.encoder, "e.safetensors")
    assert "is a nested encoder" in sentence(error) and "Load Nested Encoder" in sentence(error)
    (folder / "p.safetensors").write_bytes(b"\x80\x04junk and more junk")
    with pytest.raises(ValueError) as error:
        load(host, sd15.encoder, "p.safetensors")
    assert "pickle" in sentence(error)


def test_a_subject_among_the_encoders_is_told_apart(
    sd15: World, host: Any, folder: Path, encoders: Path
) -> None:
    save(host, sd15.subject())
    misplaced = encoders / "misplaced.safetensors"
    shutil.copy(folder / "anna.safetensors", misplaced)
    try:
        with pytest.raises(ValueError) as error:
            host.NODE_CLASS_MAPPINGS["NestedAttentionLoadEncoder"].execute(misplaced.name)
    finally:
        misplaced.unlink()
    assert "a saved subject" in sentence(error) and "Load Subject" in sentence(error)


def test_another_encoder_is_refused(worlds: Any, sd15: World, host: Any, folder: Path) -> None:
    save(host, sd15.subject())
    with pytest.raises(ValueError) as error:
        load(host, worlds("sdxl").encoder, "anna.safetensors")
    assert "connect the encoder that made it" in sentence(error)


@pytest.fixture
def encoders(host: Any) -> Path:
    import folder_paths

    return Path(folder_paths.get_folder_paths("nested_attention")[-1])


@pytest.fixture
def submit(
    sd15: World, host: Any, folder: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    class Source:
        RETURN_TYPES = ("CLIP_VISION",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> Any:
            return (sd15.vision,)

    Sink = sink(lambda given: results.append(given["subject"]), {"subject": "NESTED_SUBJECT"})
    results: list[Any] = []
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSource", Source)
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "TestSink", Sink)
    path = encoders / FILE
    write_encoder(path, sd15.model.model.diffusion_model, sd15.vision, "sd15")
    yield from running(results)
    path.unlink()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def saving(**inputs: Any) -> dict[str, Any]:
    return {
        "vision": node("TestSource"),
        "file": node("NestedAttentionLoadEncoder", encoder_name=FILE),
        "image": node("EmptyImage", width=700, height=350, batch_size=1, color=255),
        "subject": node(
            "NestedAttentionEncodeSubject",
            encoder=["file", 0], clip_vision=["vision", 0], image=["image", 0], name="anna",
        ),
        "save": node(
            "NestedAttentionSaveSubject", subject=["subject", 0], thumbnail=["image", 0],
            filename="", **inputs,
        ),
    }  # fmt: skip


def loading() -> dict[str, Any]:
    return {
        "file": node("NestedAttentionLoadEncoder", encoder_name=FILE),
        "load": node(
            "NestedAttentionLoadSubject", encoder=["file", 0], subject_name="anna.safetensors"
        ),
        "sink": node("TestSink", subject=["load", 0]),
    }


def test_saving_and_loading_in_graphs(
    submit: Callable[..., Any], folder: Path, host: Any, sd15: World
) -> None:
    graph = saving()
    _, executor = submit(graph)
    assert executor.success
    (report,) = executor.history_result["outputs"]["save"]["text"]
    assert "saved as anna.safetensors" in report
    # The same graph again is taken from the cache and writes nothing.
    submit(graph)
    assert sorted(p.name for p in folder.iterdir()) == ["anna.png", "anna.safetensors"]
    with Image.open(folder / "anna.png") as picture:
        assert picture.size == (512, 256)
        # What the page looks for in a PNG that is dropped on it.
        assert json.loads(picture.text["prompt"]) == graph  # type: ignore[attr-defined]
    first, executor = submit(loading())
    assert first.name == "anna"
    nothing, executor = submit(loading())
    assert nothing is None and executor.success
    save(host, sd15.subject(seed=9), "other")
    shutil.copy(folder / "other.safetensors", folder / "anna.safetensors")
    second, _ = submit(loading())
    assert second.tokens_fingerprint != first.tokens_fingerprint


def test_nothing_is_written_unless_save_is_wired(submit: Callable[..., Any], folder: Path) -> None:
    graph = saving()
    graph["save"] = node("TestSink", subject=["subject", 0])
    subject, _ = submit(graph)
    assert subject.name == "anna" and not folder.exists()


def test_a_host_that_writes_no_metadata_gets_none(
    sd15: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pack("nodes.host.subject_files")
    files.store(sd15.subject(), "with", PICTURE, {"workflow": {"nodes": []}})
    monkeypatch.setattr(files.args, "disable_metadata", True)
    files.store(sd15.subject(), "without", PICTURE, {"workflow": {"nodes": []}})
    with Image.open(folder / "with.png") as noted, Image.open(folder / "without.png") as bare:
        assert noted.text == {"workflow": '{"nodes": []}'}  # type: ignore[attr-defined]
        assert bare.text == {}  # type: ignore[attr-defined]


def test_the_hosts_model_library_shows_the_thumbnail(sd15: World, host: Any, folder: Path) -> None:
    from app.model_manager import ModelFileManager

    save(host, sd15.subject(), "", PICTURE)
    manager: Any = ModelFileManager.__new__(ModelFileManager)
    previews = manager.get_model_previews(str(folder / "anna.safetensors"))
    assert previews == [str(folder / "anna.png")]
