"""Features on the disk: made once, found again, and made again when anything is wrong."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nested_attn_core.training.data.example import DataError
from nested_attn_core.training.data.store import FeatureStore, as_kept


def entry(seed: int, rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "context": torch.randn(rows, 4, generator=generator),
        "positions": torch.tensor([seed, rows]),
    }


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.text(max_size=8), st.tuples(st.integers(0, 99), st.integers(1, 3))))
def test_what_is_written_is_read(tmp_path_factory, wanted):
    folder = tmp_path_factory.mktemp("store")
    entries = {key: entry(*what) for key, what in wanted.items()}
    FeatureStore(folder, "text", "a").write(entries)
    again = FeatureStore(folder, "text", "a")
    for key, written in entries.items():
        found = again.read(key)
        assert found is not None and same(found, as_kept(written))
        assert found["context"].dtype == torch.float32
    assert again.missing([*entries, "none", "none"]) == (["none"] if "none" not in entries else [])
    assert again.read("not there") is None


def test_numbers_too_large_for_half_are_kept(tmp_path):
    store = FeatureStore(tmp_path, "vision", "a")
    store.write({"x": {"vision": torch.tensor([1e6, -3.0])}})
    assert store.read("x") == {"vision": pytest.approx([1e6, -3.0])}


def test_another_fingerprint_is_another_store(tmp_path):
    FeatureStore(tmp_path, "text", "a").write({"x": entry(1)})
    assert "x" not in FeatureStore(tmp_path, "text", "b")
    assert "x" not in FeatureStore(tmp_path, "vision", "a")
    assert "x" in FeatureStore(tmp_path, "text", "a")


def test_what_another_process_has_written_is_seen(tmp_path):
    first, second = (FeatureStore(tmp_path, "text", "a") for _ in range(2))
    second.write({"x": entry(1)})
    assert "x" not in first
    first.refresh()
    assert same(first.read("x"), as_kept(entry(1)))


def test_a_changed_byte_is_noticed_and_only_that_entry_lost(tmp_path, caplog):
    FeatureStore(tmp_path, "text", "a").write({"x": entry(1), "y": entry(2)})
    (block,) = tmp_path.glob("text-*/*.safetensors")
    content = bytearray(block.read_bytes())
    # The last field's last number, which is of the second entry.
    content[-1] ^= 1
    block.write_bytes(bytes(content))
    store = FeatureStore(tmp_path, "text", "a")
    with caplog.at_level(logging.WARNING):
        assert store.read("y") is None
    assert "is made again" in caplog.text
    assert same(store.read("x"), as_kept(entry(1)))
    assert store.missing(["x", "y"]) == ["y"]
    store.write({"y": entry(2)})
    assert same(store.read("y"), as_kept(entry(2)))
    assert same(FeatureStore(tmp_path, "text", "a").read("x"), as_kept(entry(1)))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_half_a_block_is_made_again(tmp_path, share, caplog):
    FeatureStore(tmp_path, "text", "a").write({str(n): entry(n) for n in range(50)})
    (block,) = tmp_path.glob("text-*/*.safetensors")
    whole = block.read_bytes()
    block.write_bytes(whole[: int(len(whole) * share)])
    with caplog.at_level(logging.WARNING):
        store = FeatureStore(tmp_path, "text", "a")
    assert "is broken" in caplog.text
    assert store.missing(["3"]) == ["3"]
    store.write({"3": entry(3)})
    assert same(FeatureStore(tmp_path, "text", "a").read("3"), as_kept(entry(3)))


def test_an_unfinished_block_does_not_count(tmp_path):
    FeatureStore(tmp_path, "text", "a").write({"x": entry(1)})
    (block,) = tmp_path.glob("text-*/*.safetensors")
    block.rename(block.with_suffix(".123.part"))
    assert "x" not in FeatureStore(tmp_path, "text", "a")


def test_a_disk_that_cannot_be_written_to_is_a_sentence(tmp_path):
    store = FeatureStore(tmp_path, "text", "a")
    store.folder.write_text("in the way of a folder")
    with pytest.raises(DataError, match="cannot be written .*; free some space, or set data.cache"):
        store.write({"x": entry(1)})
