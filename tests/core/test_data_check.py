"""The look through a whole data set before a training."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import train_check
from nested_attn_core.training.data.check import SHOWN, check
from toy_pictures import config, disc_mask, picture, write_folder, write_jsonl, write_shard


def found(report) -> set[tuple[str, bool, str]]:
    return {(f.kind, f.error, f.origin.replace(os.sep, "/")) for f in report.findings}


def test_a_good_data_set_is_good(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 2, "anna": 3})
    disc_mask().save(tmp_path / "pictures" / "tom" / "0.mask.png")
    report = check(config(tmp_path))
    assert (report.pictures, report.usable, report.subjects, report.masks) == (5, 5, 2, 1)
    assert report.exit_code == 0 and not report.findings
    assert report.to_text() == (
        "5 of 5 pictures can be trained on; 2 subjects, 1 masks.\n\nNothing is wrong."
    )


def test_everything_that_is_wrong_is_found(tmp_path):
    folder = tmp_path / "pictures"
    write_folder(folder, {"tom": 9, "anna": 2, "lone": 1})
    (folder / "tom" / "0.png").write_bytes(b"no picture")
    content = (folder / "tom" / "1.png").read_bytes()
    (folder / "tom" / "1.png").write_bytes(content[: len(content) // 2])
    (folder / "tom" / "2.txt").unlink()
    (folder / "tom" / "3.txt").write_text("a dog")
    (folder / "tom" / "4.txt").write_text("<tom> and <anna>")
    picture(5, (8, 99)).save(folder / "tom" / "5.png")
    Image.new("L", (32, 32)).save(folder / "tom" / "6.mask.png")
    disc_mask((64, 32)).save(folder / "tom" / "7.mask.png")
    (folder / "tom" / "8.mask.png").write_bytes(b"no mask")
    (folder / "anna" / "1.png").write_bytes((folder / "anna" / "0.png").read_bytes())
    picture(70).save(folder / "loose.png")
    picture(71, (16, 60)).save(folder / "lone" / "0.png")
    report = check(config(tmp_path))
    assert found(report) == {
        ("unusable", True, "loose.png"),
        ("unreadable", True, "tom/0.png"),
        ("unreadable", True, "tom/1.png"),
        ("unusable", True, "tom/2.png"),
        ("unusable", True, "tom/3.png"),
        ("unusable", True, "tom/4.png"),
        ("unusable", True, "tom/5.png"),
        ("unreadable", True, "tom/6.png"),
        ("unreadable", True, "tom/7.png"),
        ("unreadable", True, "tom/8.png"),
        ("duplicate", False, "anna/1.png"),
        ("single", False, "lone"),
        ("shape", False, "lone/0.png"),
    }
    assert (report.pictures, report.usable, report.subjects) == (13, 3, 2)
    assert report.exit_code == 1
    data = report.to_dict()
    assert (data["errors"], data["warnings"]) == (10, 3)
    assert json.loads(json.dumps(data)) == data
    text = report.to_text()
    for words in (
        "the mask is empty",
        "the mask has 64 x 32 pixels and the picture 32 x 32",
        "is no picture that can be read",
        "is damaged",
        "there is no caption",
        'neither as <subject> nor as "cat"',
        "<anna> and <tom>, and a picture has one subject",
        "8 x 99 pixels, and data.smallest asks for at least 16",
        "nothing says who the subject is",
        "the same picture as anna",
        "the subject has one picture",
        "10 errors: a training would leave these pictures out.",
    ):
        assert words in text
    assert text.index("Error,") < text.index("Warning,")
    assert "Traceback" not in text and "  " not in text.replace("\n  ", "\n")


def test_one_picture_a_subject_is_an_error_only_where_it_teaches_nothing(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 1, "anna": 2})
    never = check(config(tmp_path, data={"augment": "never"}))
    assert found(never) == {("single", True, "tom")}
    assert (never.usable, never.exit_code) == (2, 1)
    assert "add another, or set data.augment" in never.to_text()
    every = check(config(tmp_path, data={"identity": "picture"}))
    assert not every.findings and every.subjects == 3


def test_a_subject_that_is_never_alone_is_an_error(tmp_path):
    picture(1).save(tmp_path / "1.png")
    picture(2).save(tmp_path / "2.png")
    records = [
        {"image": f"{n}.png", "caption": "a cat", "identity": "tom", "reference": False}
        for n in (1, 2)
    ]
    write_jsonl(tmp_path / "data.jsonl", records)
    settings = {"source": "jsonl", "path": "data.jsonl", "identity": "field"}
    report = check(config(tmp_path, data=settings))
    assert found(report) == {("no reference", True, "tom")}
    assert report.usable == 0 and "Nothing can be trained on." in report.to_text()


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("folder", "none", "There is no folder"),
        ("jsonl", "none.jsonl", "There is no file"),
        ("webdataset", "none.tar", "There is no shard"),
        ("miniature", "none", "holds no drawn pictures"),
        ("folder", "", "there is no picture"),
    ],
)
def test_a_data_set_that_is_not_there_is_a_finding(tmp_path, source, path, message):
    (tmp_path / "empty").mkdir()
    data = {"source": source, "path": path or "empty"}
    report = check(config(tmp_path, data=data))
    ((kind, error, _),) = found(report)
    assert kind == "data set" and error
    assert message in report.to_text() and report.exit_code == 1


def test_bad_lines_and_shards_are_findings(tmp_path):
    picture(1).save(tmp_path / "1.png")
    write_jsonl(tmp_path / "data.jsonl", [{"image": "1.png", "caption": "a cat"}, "{"])
    data = {"source": "jsonl", "path": "data.jsonl", "identity": "picture"}
    assert "line 2" in check(config(tmp_path, data=data)).to_text()
    write_shard(tmp_path / "shards" / "0.tar", [("1.txt", b"alone")])
    data = {"source": "webdataset", "path": "shards"}
    assert "there is no picture; add a member 1.jpg" in check(config(tmp_path, data=data)).to_text()


def test_a_long_report_is_cut_and_the_file_is_not(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": SHOWN + 5})
    for path in (tmp_path / "pictures" / "tom").glob("*.txt"):
        path.unlink()
    report = check(config(tmp_path))
    assert "  and 5 more" in report.to_text()
    assert len(report.to_dict()["findings"]) == SHOWN + 5


def test_a_second_look_reads_no_picture_again(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 3})
    told = []
    check(config(tmp_path), lambda *what: told.append(what))
    check(config(tmp_path), lambda *what: told.append(what))
    assert told == [(3, 3)]


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(["a/1.png", "a/1.txt", "a/1.mask.png", "a/2.jpg", "3.webp", "a/b/4.tiff"]),
        st.binary(max_size=60),
        min_size=1,
    )
)
def test_whatever_lies_in_a_folder_gives_a_report(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("any")
    for name, content in files.items():
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "pictures").mkdir(exist_ok=True)
    report = check(config(folder))
    assert report.exit_code == 1
    assert report.errors >= 1 and report.to_text()


def test_the_command_prints_and_writes_the_report(tmp_path, capsys):
    write_folder(tmp_path / "pictures", {"tom": 2})
    settings = config(tmp_path)
    train_check.pack.load_pack()
    assert train_check.check(settings) == 0
    told = capsys.readouterr().out
    assert "2 of 2 pictures can be trained on" in told
    path = tmp_path / "run" / "check.json"
    assert str(path) in told
    assert json.loads(path.read_text())["usable"] == 2
    (tmp_path / "pictures" / "tom" / "0.txt").unlink()
    assert train_check.check(settings) == 1
    path.unlink()
    path.mkdir()
    assert train_check.check(settings) == 1
    assert "cannot be written" in capsys.readouterr().err
