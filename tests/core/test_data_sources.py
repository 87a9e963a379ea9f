"""Every source of pictures, on good and on broken data."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nested_attn_core.training.data.captions import canonical_caption
from nested_attn_core.training.data.drawn import list_drawn
from nested_attn_core.training.data.example import PLACEHOLDER, DataError
from nested_attn_core.training.data.folder import list_folder
from nested_attn_core.training.data.index import ContentIndex
from nested_attn_core.training.data.jsonl import list_jsonl
from nested_attn_core.training.data.pictures import decode, decode_mask
from nested_attn_core.training.data.shards import list_shards, shard_paths
from nested_attn_core.training.data.source import open_source
from nested_attn_core.training.miniature import dataset, identities
from nested_attn_core.training.miniature.masks import crown_mask, margin_mask, subject_mask
from toy_pictures import (
    config,
    disc_mask,
    encoded,
    picture,
    write_folder,
    write_jsonl,
    write_shard,
)

# Captions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of <tom> asleep", "a photo of <subject> asleep"),
        ("<Tom> and <tom>,\n<TOM>", "<subject> and <subject>, <subject>"),
        ("a Cat on a cat bed", "a <subject> on a cat bed"),
        ("a category, one cat", "a category, one <subject>"),
        ("<lora:x:1> my cat", "<lora:x:1> my <subject>"),
        ("<tom> the cat", "<subject> the cat"),
    ],
)
def test_a_caption_names_its_subject(text, expected):
    assert canonical_caption(text, "cat") == expected


@pytest.mark.parametrize("text", ["a dog", "category", "", "<lora:cat:1>", "concatenate"])
def test_a_caption_without_its_subject_is_refused(text):
    with pytest.raises(DataError, match=f'neither as {PLACEHOLDER} nor as "cat"'):
        canonical_caption(text, "cat")


def test_a_caption_of_two_subjects_is_refused():
    with pytest.raises(DataError, match="<anna> and <tom>, and a picture has one subject"):
        canonical_caption("<tom> and <anna>", "cat")


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_placeholder_is_always_found(before, after):
    text = f"{before} {PLACEHOLDER} {after}"
    try:
        found = canonical_caption(text, "cat")
    except DataError as error:
        assert "a picture has one subject" in str(error)
    else:
        assert PLACEHOLDER in found
        assert canonical_caption(found, "cat") == found


# Pictures


def test_a_picture_is_as_it_is_seen():
    drawn = picture(3, (40, 20))
    turned = Image.Exif()
    turned[0x0112] = 6
    stream = io.BytesIO()
    drawn.save(stream, "PNG", exif=turned)
    assert decode(stream.getvalue(), "x").size == (20, 40)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "I;16", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    level = 255 if mode == "1" else 180
    grey = Image.fromarray(np.full((8, 8), level, np.uint8))
    if mode == "I;16":
        drawn = Image.fromarray(np.full((8, 8), 180 * 256, np.uint16))
    else:
        drawn = grey.convert("RGBA").convert(mode)
    found = decode(encoded(drawn, "TIFF" if mode == "CMYK" else "PNG"), "x")
    assert found.mode == "RGB"
    assert abs(np.asarray(found).astype(int) - level).max() <= 1


def test_what_is_transparent_is_white_and_out_of_the_mask():
    drawn = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    drawn.putpixel((1, 1), (10, 20, 30, 255))
    content = encoded(drawn)
    assert decode(content, "x").getpixel((0, 0)) == (255, 255, 255)
    assert decode(content, "x").getpixel((1, 1)) == (10, 20, 30)
    mask = decode_mask(content, "x")
    assert (mask.getpixel((0, 0)), mask.getpixel((1, 1))) == (0, 255)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000))
def test_bytes_that_are_no_picture_are_a_sentence(junk, cut):
    whole = encoded(picture(1), "JPEG")
    for content in (junk, whole[: cut % len(whole)], b"\x89PNG\r\n\x1a\n" + junk):
        try:
            assert decode(content, "cat.png").mode == "RGB"
        except DataError as error:
            assert str(error).startswith("cat.png is ")


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_a_damaged_picture_is_read_or_a_sentence(form, damage):
    content = bytearray(encoded(picture(1), form))
    for place, bits in damage:
        content[int(place * len(content))] ^= bits
    for read in (decode, decode_mask):
        try:
            assert read(bytes(content), "cat.png").mode in ("RGB", "L")
        except DataError as error:
            assert str(error).startswith("cat.png is ")


# A folder


def test_a_folder_is_read_with_captions_masks_and_subjects(tmp_path):
    write_folder(tmp_path, {"tom": 2, "anna": 1})
    disc_mask().save(tmp_path / "tom" / "0.mask.png")
    (tmp_path / "tom" / "1.txt").unlink()
    (tmp_path / "tom" / "._0.png").write_bytes(b"left by a system")
    (tmp_path / ".hidden").mkdir()
    picture(9).save(tmp_path / ".hidden" / "x.png")
    (tmp_path / "notes.md").write_text("no picture")
    picture(8).save(tmp_path / "LOOSE.JPG")
    found = list_folder(tmp_path, "folder")
    assert not found.problems
    told = [(i.origin.replace(os.sep, "/"), i.identity, i.caption, i.has_mask) for i in found.items]
    assert told == [
        ("LOOSE.JPG", None, None, False),
        ("anna/0.png", "anna", "a photo of <anna> on mat 3", False),
        ("tom/0.png", "tom", "a photo of <tom> on mat 1", True),
        ("tom/1.png", "tom", None, False),
    ]
    assert found.items[2].image().tobytes() == picture(1).tobytes()
    assert found.items[2].mask().tobytes() == disc_mask().tobytes()
    assert {i.identity for i in list_folder(tmp_path, "picture").items} == {
        i.origin for i in found.items
    }


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="There is no folder .*; set data.path"):
        list_folder(tmp_path / "none", "folder")


def test_a_caption_in_another_encoding_is_a_problem_and_no_more(tmp_path):
    write_folder(tmp_path, {"tom": 2})
    (tmp_path / "tom" / "0.txt").write_bytes("Käse".encode("latin-1"))
    found = list_folder(tmp_path, "folder")
    assert len(found.items) == 1
    assert len(found.problems) == 1 and "0.png cannot be read" in found.problems[0]


def test_a_picture_that_vanishes_is_a_sentence(tmp_path):
    write_folder(tmp_path, {"tom": 1})
    (item,) = list_folder(tmp_path, "folder").items
    (tmp_path / "tom" / "0.png").unlink()
    with pytest.raises(DataError, match="has vanished; bring it back"):
        item.image()


# JSONL


def test_a_jsonl_file_is_read(tmp_path):
    for number in range(3):
        (tmp_path / "art").mkdir(exist_ok=True)
        picture(number).save(tmp_path / "art" / f"{number}.png")
    disc_mask().save(tmp_path / "mask.png")
    write_jsonl(
        tmp_path / "data.jsonl",
        [
            {"image": "art/0.png", "caption": "a <x>", "identity": "tom", "mask": "mask.png"},
            "",
            {"image": "art/1.png", "caption": "a cat", "identity": 7, "reference": False},
            {"image": "art/2.png"},
        ],
    )
    found = list_jsonl(tmp_path / "data.jsonl", "field")
    assert not found.problems
    assert [i.identity for i in found.items] == ["tom", "7", None]
    assert [i.caption for i in found.items] == ["a <x>", "a cat", None]
    assert [i.reference for i in found.items] == [True, False, True]
    assert [i.has_mask for i in found.items] == [True, False, False]
    assert {i.identity for i in list_jsonl(tmp_path / "data.jsonl", "folder").items} == {"art"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: this is not valid JSON"),
        ("[1]", "line 2: this is no JSON object"),
        ("{}", 'line 2: there is no "image"'),
        ({"image": 3.5}, 'line 2: "image" is 3.5; it must be a text'),
        ({"image": "none.png"}, "none.png cannot be found"),
        ({"image": "0.png", "mask": "none.png"}, "none.png cannot be found"),
        ({"image": "0.png", "caption": ["a"]}, '"caption" is ["a"]; it must be a text'),
        ({"image": "0.png", "reference": "no"}, '"reference" is "no"; it must be true or false'),
        ("[" * 100_000, "line 2: this is not valid JSON"),
    ],
)
def test_a_bad_line_is_a_problem_and_no_more(tmp_path, line, message):
    picture(1).save(tmp_path / "0.png")
    write_jsonl(tmp_path / "data.jsonl", [{"image": "0.png"}, line])
    found = list_jsonl(tmp_path / "data.jsonl", "picture")
    assert len(found.items) == 1
    (problem,) = found.problems
    assert message in problem


def test_a_jsonl_file_that_cannot_be_read_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        list_jsonl(tmp_path / "none.jsonl", "field")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="must be UTF-8"):
        list_jsonl(tmp_path / "bad.jsonl", "field")


# WebDataset shards


def shard_members(first, count):
    for number in range(first, first + count):
        yield f"tom/{number:03d}.jpg", encoded(picture(number), "JPEG")
        yield f"tom/{number:03d}.txt", f"a cat, {number}".encode()


def test_shards_are_read_by_pattern_folder_and_list(tmp_path):
    write_shard(tmp_path / "00.tar", list(shard_members(0, 2)))
    write_shard(tmp_path / "01.tar", list(shard_members(2, 3)))
    expected = [f"00.tar/tom/{n:03d}" for n in (0, 1)] + [f"01.tar/tom/{n:03d}" for n in (2, 3, 4)]
    for pattern in ("", "{00..01}.tar", "*.tar"):
        found = list_shards(str(tmp_path / pattern) if pattern else str(tmp_path), "folder")
        assert [i.origin for i in found.items] == expected
        assert {i.identity for i in found.items} == {"tom"}
    both = f"{tmp_path}/01.tar::{tmp_path}/00.tar"
    assert [p.name for p in shard_paths(both)] == ["01.tar", "00.tar"]
    item = found.items[3]
    assert item.caption == "a cat, 3"
    assert item.image().tobytes() == decode(encoded(picture(3), "JPEG"), "x").tobytes()


def test_fields_and_masks_of_a_sample(tmp_path):
    record = {"caption": "unused", "identity": "anna", "reference": False}
    members = [
        ("0.PNG", encoded(picture(1))),
        ("0.json", json.dumps(record).encode()),
        ("0.txt", b"a <x>"),
        ("0.mask.png", encoded(disc_mask())),
        ("1.webp", encoded(picture(2), "WEBP")),
        ("1.json", json.dumps({"caption": "a cat"}).encode()),
        ("2.txt", b"no picture"),
        ("3.png", encoded(picture(3))),
        ("3.json", b"{"),
    ]
    write_shard(tmp_path / "0.tar", members)
    found = list_shards(str(tmp_path / "0.tar"), "field")
    first, second = found.items
    assert (first.caption, first.identity, first.reference) == ("a <x>", "anna", False)
    assert first.mask().tobytes() == disc_mask().tobytes()
    assert (second.caption, second.identity, second.has_mask) == ("a cat", None, False)
    assert ["there is no picture" in found.problems[0], "not valid JSON" in found.problems[1]]
    assert len(found.problems) == 2


def test_damaged_shards_are_problems_and_missing_ones_stop(tmp_path):
    write_shard(tmp_path / "0.tar", list(shard_members(0, 4)))
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(b"no tar file at all" * 100)
    (tmp_path / "2.tar").write_bytes(whole[:1100])
    (tmp_path / "3.tar").write_bytes(gzip.compress(whole))
    found = list_shards(str(tmp_path), "folder")
    assert len([i for i in found.items if i.origin.startswith("0.tar")]) == 4
    assert len(found.problems) == 3
    assert all("is damaged, or no plain tar file" in problem for problem in found.problems)
    with pytest.raises(DataError, match="There is no shard .*7.tar"):
        list_shards(str(tmp_path / "7.tar"), "folder")
    with pytest.raises(DataError, match="There are no shards at"):
        list_shards(str(tmp_path / "x*.tar"), "folder")


def test_a_shard_that_vanishes_or_shrinks_is_a_sentence(tmp_path):
    write_shard(tmp_path / "0.tar", list(shard_members(0, 2)))
    items = list_shards(str(tmp_path), "folder").items
    (tmp_path / "0.tar").write_bytes(b"short")
    with pytest.raises(DataError, match="0.tar has become shorter"):
        items[1].image()
    (tmp_path / "0.tar").unlink()
    with pytest.raises(DataError, match="0.tar has vanished"):
        items[0].image()


def test_two_members_of_one_name_are_told(tmp_path):
    write_shard(tmp_path / "0.tar", [("0.png", b"a"), ("0.png", b"b")])
    assert "two members of one name" in list_shards(str(tmp_path), "folder").problems[0]


def test_a_missing_library_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.delitem(sys.modules, "webdataset.shardlists", raising=False)
    with pytest.raises(DataError, match="pip install webdataset"):
        list_shards(str(tmp_path), "folder")


# The drawn world


def test_drawn_pictures_are_those_of_the_shards(tmp_path):
    plan = dataset.Plan(identities=2, pictures=2, pairs=2)
    dataset.build(tmp_path, plan, lambda done, total: None)
    images, records = dataset.load(tmp_path)
    domain = identities.DOMAINS[0]
    rows = [n for n, r in enumerate(records) if domain in [s[0] for s in r["subjects"]]]
    items = list_drawn(tmp_path, domain).items
    assert len(items) == len(rows)
    for item, row in zip(items, rows, strict=True):
        assert np.array_equal(np.asarray(item.image()), images[row])
        assert str(item.caption).count(PLACEHOLDER) == 1
        assert (len(records[row]["subjects"]) == 1 and not records[row]["style"]) == item.reference
        assert item.facts().size == (128, 128)
        subject = subject_mask(images[row], records[row], domain)
        assert np.array_equal(np.asarray(item.mask())[::8, ::8] > 0, margin_mask(subject))
    assert len({item.facts().key for item in items}) == len(items)


def test_a_robots_head_counts_three_times_as_much_as_the_rest_of_it(tmp_path):
    dataset.build(tmp_path, dataset.Plan(identities=2, pictures=2, pairs=2), lambda *_: None)
    images, records = dataset.load(tmp_path)
    rows = [n for n, r in enumerate(records) if "robot" in [s[0] for s in r["subjects"]]]
    items = list_drawn(tmp_path, "robot").items
    assert len(items) == len(rows) > 2
    for item, row in zip(items, rows, strict=True):
        subject = subject_mask(images[row], records[row], "robot")
        expected = np.where(crown_mask(subject), 255, np.where(margin_mask(subject), 85, 0))
        assert np.array_equal(np.asarray(item.mask())[::8, ::8], expected)


def test_drawn_shards_that_are_damaged_or_missing_are_told(tmp_path):
    with pytest.raises(DataError, match="dev.py train data"):
        list_drawn(tmp_path, "person")
    (tmp_path / "000.npz").write_bytes(b"half")
    found = list_drawn(tmp_path, "person")
    assert not found.items and "000.npz is damaged" in found.problems[0]


# What is known of them


def test_a_picture_is_read_once_and_again_when_it_changes(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 2})
    path = tmp_path / "index.json"
    first = ContentIndex(path).facts(list_folder(tmp_path / "pictures", "folder").items)
    looked = []
    again = ContentIndex(path).facts(
        list_folder(tmp_path / "pictures", "folder").items, 1, lambda *told: looked.append(told)
    )
    assert again == first and not looked
    picture(77).save(tmp_path / "pictures" / "tom" / "0.png")
    changed = ContentIndex(path).facts(
        list_folder(tmp_path / "pictures", "folder").items, 1, lambda *told: looked.append(told)
    )
    assert looked == [(1, 1)]
    assert changed[0] != first[0] and changed[1] == first[1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format":1,"facts":3}'])
def test_a_broken_index_is_made_again(tmp_path, content):
    write_folder(tmp_path / "pictures", {"tom": 1})
    items = list_folder(tmp_path / "pictures", "folder").items
    expected = ContentIndex(tmp_path / "good.json").facts(items)
    (tmp_path / "index.json").write_text(content)
    assert ContentIndex(tmp_path / "index.json").facts(items) == expected
    assert ContentIndex(tmp_path / "index.json").facts(items) == expected


def test_an_index_that_cannot_be_kept_is_done_without(tmp_path, caplog):
    write_folder(tmp_path / "pictures", {"tom": 1})
    items = list_folder(tmp_path / "pictures", "folder").items
    (tmp_path / "file").write_text("in the way of a folder")
    index = ContentIndex(tmp_path / "file" / "index.json")
    with caplog.at_level(logging.WARNING):
        assert index.facts(items) == ContentIndex(tmp_path / "good.json").facts(items)
    assert "cannot be written" in caplog.text


def test_a_mask_is_part_of_what_a_picture_is(tmp_path):
    write_folder(tmp_path, {"tom": 1})
    plain = list_folder(tmp_path, "folder").items[0].facts()
    disc_mask().save(tmp_path / "tom" / "0.mask.png")
    assert list_folder(tmp_path, "folder").items[0].facts().key != plain.key


# The usable ones


def test_what_cannot_be_used_is_left_out_and_told(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 6})
    folder = tmp_path / "pictures" / "tom"
    (folder / "0.png").write_bytes(b"no picture")
    (folder / "1.txt").write_text("a dog")
    (folder / "2.txt").unlink()
    picture(3, (15, 200)).save(folder / "3.png")
    picture(50).save(tmp_path / "pictures" / "loose.png")
    Image.new("L", (32, 32)).save(folder / "4.mask.png")
    source, problems = open_source(config(tmp_path))
    assert [source[row].origin for row in range(len(source))] == [os.path.join("tom", "5.png")]
    told = {problem.split(":")[0].replace(os.sep, "/"): problem for problem in problems}
    for name, words in {
        "loose.png": "nothing says who the subject is",
        "tom/0.png": "is no picture that can be read",
        "tom/1.png": 'neither as <subject> nor as "cat"',
        "tom/2.png": "there is no caption",
        "tom/3.png": "15 x 200 pixels, and data.smallest asks for at least 16",
        "tom/4.png": "the mask is empty",
    }.items():
        assert words in told.pop(name)
    assert not told
    example = source[0]
    assert example.caption == "a photo of <subject> on mat 6"
    assert (example.identity, example.size, example.mask) == ("tom", (32, 32), None)


def test_pictures_without_captions_may_share_one(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 1})
    (tmp_path / "pictures" / "tom" / "0.txt").unlink()
    source, _ = open_source(config(tmp_path, data={"caption": "a photo of a cat"}))
    assert source[0].caption == "a photo of a <subject>"


def test_a_data_set_of_which_nothing_is_left_is_a_sentence(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 1})
    (tmp_path / "pictures" / "tom" / "0.txt").write_text("a dog")
    with pytest.raises(DataError, match=r"--check for a report. The first: tom.0.png: the caption"):
        open_source(config(tmp_path))


def test_several_threads_read_one_source(tmp_path):
    write_shard(tmp_path / "pictures" / "0.tar", list(shard_members(0, 8)))
    source, _ = open_source(config(tmp_path, data={"source": "webdataset"}))
    expected = [source[row].image().tobytes() for row in range(len(source))]
    found: list[list[bytes]] = []

    def read():
        found.append([source[row].image().tobytes() for row in range(len(source))])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
