"""Order, augmentation, shapes, and the batches that come of them."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nested_attn_core.training.batches import Text
from nested_attn_core.training.data.ahead import ReadAhead
from nested_attn_core.training.data.augment import Augmentation
from nested_attn_core.training.data.dataset import TrainingData
from nested_attn_core.training.data.example import DataError
from nested_attn_core.training.data.order import Order, Pairs
from nested_attn_core.training.data.shapes import Fitting, fitted_mask, mask_cells, pixels
from nested_attn_core.training.data.source import open_source
from nested_attn_core.training.data.text import stack_text
from toy_pictures import ToyEncoders, config, disc_mask, picture, write_folder

# Who is shown when


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=20),
    st.integers(1, 7),
    st.integers(0, 5),
)
def test_every_target_is_shown_in_every_epoch_in_batches_of_one_bucket(buckets, batch, seed):
    rows = list(range(len(buckets)))
    pairs = Pairs(["one"] * len(rows), [True] * len(rows))
    order = Order(pairs, rows, buckets, batch, seed)
    for epoch in range(2):
        shown = []
        for step in range(epoch * order.steps, (epoch + 1) * order.steps):
            targets = [order.choice(step * batch + i).target for i in range(batch)]
            assert len({buckets[row] for row in targets}) == 1
            shown += targets
        assert set(shown) == set(rows)
        assert max(Counter(shown).values()) <= 1 + batch


def test_order_depends_on_seed_and_number_alone():
    pairs = Pairs([str(n // 3) for n in range(30)], [True] * 30)
    one, two = (Order(pairs, range(30), [0] * 30, 4, 7) for _ in range(2))
    numbers = [65, 3, 120, 64]
    assert [one.choice(n) for n in numbers] == [two.choice(n) for n in reversed(numbers)][::-1]
    other = Order(pairs, range(30), [0] * 30, 4, 8)
    assert [one.choice(n).target for n in range(30)] != [other.choice(n).target for n in range(30)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=8),
    st.sampled_from(["single", "always", "never"]),
    st.integers(0, 100),
)
def test_a_reference_shows_the_target_s_subject_and_is_never_pasted(listed, augment, seed):
    names, may = [name for name, _ in listed], [alone for _, alone in listed]
    pairs = Pairs(names, may, augment)
    for row in range(len(names)):
        if not pairs.partners(row):
            others = [r for r in range(len(names)) if names[r] == names[row] and may[r]]
            assert not others or (others == [row] and augment == "never")
            continue
        choice = pairs.choose(row, torch.Generator().manual_seed(seed))
        assert names[choice.reference] == names[row] and may[choice.reference]
        if choice.reference == row:
            assert choice.variant is not None and augment != "never"
        assert (augment == "always") <= (choice.variant is not None)
        assert (augment == "never") <= (choice.variant is None)


def test_nothing_to_learn_from_is_a_sentence():
    with pytest.raises(DataError, match='data.augment to "single"'):
        Order(Pairs(["a", "b"], [True, True], "never"), [], [], 4, 0)


# Augmented references


def test_an_augmented_reference_is_another_picture_of_the_same_disc():
    drawn = picture(5, (64, 48))
    augment = Augmentation(0.0)
    made = [augment(drawn, None, torch.Generator().manual_seed(n)) for n in range(12)]
    again = augment(drawn, None, torch.Generator().manual_seed(3))
    assert again.tobytes() == made[3].tobytes()
    assert len({(m.size, m.tobytes()) for m in made}) == 12
    assert all(m.mode == "RGB" and min(m.size) >= 0.6 * 48 - 1 for m in made)


def test_the_subject_stays_in_the_cut_and_the_background_goes():
    drawn = Image.new("RGB", (60, 60), (0, 255, 0))
    mask = Image.new("L", (60, 60))
    for x in range(40, 58):
        for y in range(2, 20):
            drawn.putpixel((x, y), (255, 0, 0))
            mask.putpixel((x, y), 255)
    for seed in range(12):
        made = Augmentation(1.0)(drawn, lambda: mask, torch.Generator().manual_seed(seed))
        seen = np.asarray(made).astype(int)
        red = (seen[..., 0] > 120) & (seen[..., 1] < 90) & (seen[..., 2] < 90)
        # All 18 x 18 pixels, but for blurred edges.
        assert red.sum() > 0.7 * 18 * 18
        if seed == 0:
            plain = Augmentation(0.0)(drawn, lambda: mask, torch.Generator().manual_seed(seed))
            green = np.asarray(plain).astype(int)
            assert (green[..., 1] > 120).mean() > 0.3


def test_an_empty_or_smaller_mask_does_no_harm():
    drawn = picture(1, (40, 40))
    for mask in (Image.new("L", (40, 40)), disc_mask((20, 20))):
        made = Augmentation(1.0)(drawn, lambda mask=mask: mask, torch.Generator().manual_seed(1))
        assert min(made.size) >= 20


# Shapes


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(16, 200), st.integers(16, 200)),
    st.sampled_from(["crop", "pad"]),
    st.booleans(),
)
def test_every_picture_gets_a_size_of_the_training(size, fit, buckets):
    fitting = Fitting(128, fit, buckets)
    to = fitting.target(size)
    assert to in fitting.sizes()
    made = fitting.apply(Image.new("RGB", size, (200, 10, 10)), to)
    assert made.size == to
    if fit == "crop":
        assert made.getextrema() == ((200, 200), (10, 10), (10, 10))


def test_buckets_have_one_area_and_steps_of_64():
    sizes = Fitting(1024, buckets=True).sizes()
    assert sizes[0] == (1024, 1024) and len(sizes) == 7
    assert all(w % 64 == 0 and h % 64 == 0 for w, h in sizes)
    assert all(0.9 < w * h / 1024**2 < 1.1 for w, h in sizes)
    assert Fitting(1024, buckets=True).target((1500, 1000)) == (1280, 832)


def test_a_picture_of_the_right_size_is_not_touched():
    drawn = picture(2)
    assert Fitting(32).apply(drawn, (32, 32)) is drawn
    assert torch.equal((pixels(drawn) * 255).byte(), torch.from_numpy(np.array(drawn)))


def test_a_border_is_no_subject():
    fitting = Fitting(64, "pad")
    mask = fitted_mask(lambda: Image.new("L", (64, 32), 255), fitting, (64, 64))
    cells = mask_cells(mask, 4, 4)
    assert cells.tolist() == [[[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]]


# Captions of unequal length


def test_shorter_captions_are_repeated_with_their_subjects():
    short = Text(torch.arange(2.0)[:, None], (1,), torch.ones(3))
    long = Text(torch.arange(6.0)[:, None] + 10, (0, 4), torch.zeros(3))
    context, pooled, positions = stack_text([short, long])
    assert context[0].flatten().tolist() == [0, 1, 0, 1, 0, 1]
    assert positions.tolist() == [[1, 3, 5], [0, 4, -1]]
    assert pooled is not None and pooled.shape == (2, 3)
    nobody = stack_text([Text(torch.zeros(2, 1), ())])
    assert nobody[1] is None and nobody[2].tolist() == [[-1]]
    assert nobody[2].dtype == torch.int64


# Reading ahead


@pytest.mark.parametrize("threads", [0, 3])
def test_what_is_read_ahead_is_read_once(threads):
    calls = Counter()

    def load(name):
        calls[name] += 1
        return name * 2

    loads = {name: lambda name=name: load(name) for name in "abc"}
    ahead: ReadAhead[str, str] = ReadAhead(threads)
    ahead.expect(loads)
    assert ahead.take(loads) == {"a": "aa", "b": "bb", "c": "cc"}
    assert set(calls.values()) == {1}
    ahead.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_while_reading_ahead_reaches_who_asks(threads):
    def fail():
        raise DataError("vanished")

    ahead: ReadAhead[str, str] = ReadAhead(threads)
    ahead.expect({"a": fail})
    with pytest.raises(DataError, match="vanished"):
        ahead.take({"a": fail})
    ahead.close()


# Batches


def opened(folder, encoders=None, **sections):
    settings = config(folder, **sections)
    source, _ = open_source(settings)
    return TrainingData(source, encoders or ToyEncoders(), settings, 32)


@pytest.fixture
def pictures(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 4, "anna": 3, "lone": 1})
    disc_mask().save(tmp_path / "pictures" / "tom" / "0.mask.png")
    return tmp_path


def equal(left, right) -> bool:
    tensors = ("latents", "context", "positions", "features", "mask")
    pairs = [(getattr(left, n), getattr(right, n)) for n in tensors]
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def test_a_batch_holds_what_its_pictures_show(pictures):
    encoders = ToyEncoders()
    data = opened(pictures, encoders, data={"cache": []})
    for step in range(3):
        numbers = range(step * 4, step * 4 + 4)
        batch = data.batch(numbers)
        assert batch.latents.shape == (4, 3, 4, 4) and batch.features.shape == (4, 16, 3)
        assert batch.mask is None or batch.mask.shape == (4, 1, 4, 4)
        assert batch.conditions["y"][:, 2:].eq(32).all()
        for place, number in enumerate(numbers):
            choice = data.order.choice(number)
            example = data.source[choice.target]
            image = pixels(example.image())[None]
            assert torch.equal(batch.latents[place], encoders.latents(image)[0])
            (text,) = encoders.text([example.caption])
            assert torch.equal(batch.context[place], text.context)
            assert batch.positions[place].tolist() == [3]
            reference = data.source[choice.reference]
            assert reference.identity == example.identity
            if choice.variant is None:
                image = pixels(reference.image())[None]
                assert torch.equal(batch.features[place], encoders.features(image)[0])
            shown = batch.mask is not None and bool(batch.mask[place].any())
            assert shown == (example.mask is not None)


def test_kept_features_are_made_once_and_give_the_same_batches(pictures):
    first = ToyEncoders()
    data = opened(pictures, first)
    told = []
    data.prepare(lambda *what: told.append(what))
    assert {kind: (done, total) for kind, done, total in told} == {
        "latents": (8, 8), "vision": (12, 12), "text": (8, 8),
    }  # fmt: skip
    assert first.calls == {"latents": 8, "features": 12, "text": 8}
    batches = [data.batch(range(n, n + 4)) for n in range(0, 24, 4)]
    assert first.calls == {"latents": 8, "features": 12, "text": 8}
    second = ToyEncoders()
    again = opened(pictures, second)
    again.prepare()
    for n, batch in zip(range(0, 24, 4), batches, strict=True):
        assert equal(again.batch(range(n, n + 4)), batch)
    assert second.calls == {"latents": 0, "features": 0, "text": 0}


def test_a_first_run_and_a_second_one_compute_alike(pictures):
    """Whether an entry is found on the disk must not change a bit."""
    without = [opened(pictures).batch(range(n, n + 4)) for n in (0, 4, 8)]
    data = opened(pictures)
    data.prepare()
    assert all(
        equal(data.batch(range(n, n + 4)), batch)
        for n, batch in zip((0, 4, 8), without, strict=True)
    )


def test_parts_of_a_batch_are_the_batch(pictures):
    data = opened(pictures)
    whole = data.batch(range(4, 8))
    parts = [data.batch([n]) for n in range(4, 8)]
    assert torch.equal(whole.latents, torch.cat([part.latents for part in parts]))
    assert torch.equal(whole.features, torch.cat([part.features for part in parts]))


def test_several_processes_share_the_work(pictures):
    encoders = [ToyEncoders() for _ in range(3)]
    processes = [opened(pictures, one) for one in encoders]
    for rank, data in enumerate(processes):
        data.prepare(part=rank, of=3)
    assert sum(one.calls["latents"] for one in encoders) <= 2 * 8
    for data in processes:
        data.refresh()
    before = [dict(one.calls) for one in encoders]
    batches = [data.batch(range(8)) for data in processes]
    assert equal(batches[0], batches[1]) and equal(batches[0], batches[2])
    assert [one.calls for one in encoders] == before


def test_a_late_process_leaves_no_gap(pictures):
    """What one has written already must not move the others' parts."""
    for rank in range(3):
        opened(pictures).prepare(part=rank, of=3)
    after = ToyEncoders()
    opened(pictures, after).prepare()
    assert after.calls == {"latents": 0, "features": 0, "text": 0}


def test_changed_pictures_models_and_sizes_are_computed_anew(pictures):
    opened(pictures).prepare()
    one = ToyEncoders()
    picture(99).save(pictures / "pictures" / "tom" / "1.png")
    opened(pictures, one).prepare()
    assert one.calls == {"latents": 1, "features": 1, "text": 0}
    two = ToyEncoders("2")
    opened(pictures, two).prepare()
    assert two.calls == {"latents": 8, "features": 0, "text": 0}
    three = ToyEncoders()
    opened(pictures, three, data={"size": 64}).prepare()
    assert three.calls == {"latents": 8, "features": 0, "text": 0}


def test_a_broken_cache_is_made_good_in_the_batch(pictures):
    data = opened(pictures)
    data.prepare()
    expected = data.batch(range(4))
    for block in (pictures / "run" / "cache").rglob("*.safetensors"):
        content = bytearray(block.read_bytes())
        content[-1] ^= 64
        block.write_bytes(bytes(content))
    assert equal(opened(pictures).batch(range(4)), expected)
    shutil.rmtree(pictures / "run" / "cache")
    assert equal(opened(pictures).batch(range(4)), expected)


def test_without_a_cache_pictures_are_read_ahead(pictures):
    data = opened(pictures, data={"cache": ["text"], "threads": 2})
    other = opened(pictures, data={"cache": ["text"], "threads": 0})
    for n in (0, 4, 8, 40, 44):
        assert equal(data.batch(range(n, n + 4)), other.batch(range(n, n + 4)))
    data.close()


def test_a_picture_that_vanishes_stops_with_a_sentence(pictures):
    data = opened(pictures, data={"cache": []})
    shutil.rmtree(pictures / "pictures")
    with pytest.raises(DataError, match="has vanished"):
        data.batch(range(4))
    data.close()


def test_subjects_kept_out_are_in_no_batch(pictures):
    data = opened(pictures, data={"held_out": 0.3})
    assert len(data.held_out) == 1
    (name,) = data.held_out
    seen = {
        data.identities[row]
        for n in range(60)
        for row in (data.order.choice(n).target, data.order.choice(n).reference)
    }
    assert seen == {"tom", "anna", "lone"} - {name}
    assert set(data.subjects(held_out=True)) == {name}
    assert set(data.subjects(held_out=False)) == seen
    # More pictures do not move the split.
    write_folder(pictures / "pictures", {name: 5})
    assert opened(pictures, data={"held_out": 0.3}).held_out == {name}


def test_not_everybody_is_kept_out(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 2})
    data = opened(tmp_path, data={"held_out": 0.9})
    assert not data.held_out and data.targets == [0, 1]
    write_folder(tmp_path / "pictures", {"tom": 2, "anna": 2})
    assert len(opened(tmp_path, data={"held_out": 0.9}).held_out) == 1


def test_buckets_make_batches_of_one_size(pictures):
    for number, size in enumerate([(96, 48), (48, 96), (96, 48), (64, 64)]):
        picture(60 + number, size).save(pictures / "pictures" / "tom" / f"{number}.png")
    (pictures / "pictures" / "tom" / "0.mask.png").unlink()
    data = opened(pictures, data={"buckets": True, "size": 256})
    shapes = {
        tuple(data.batch(range(n, n + 4)).latents.shape[-2:])
        for n in range(0, 4 * data.order.steps, 4)
    }
    assert shapes == {(32, 32), (24, 40), (40, 24)}


def test_large_references_are_scaled_down_first(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 2})
    picture(1, (1600, 1200)).save(tmp_path / "pictures" / "tom" / "0.png")
    seen = []

    class Watching(ToyEncoders):
        def features(self, images):
            seen.append(tuple(images.shape[1:3]))
            return super().features(images)

    opened(tmp_path, Watching()).prepare()
    assert sorted(seen) == [(32, 32), (1024, 1365)]
