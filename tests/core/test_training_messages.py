"""What a training says where nothing else tests it: one sentence, and what to do."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from nested_attn_core.training.data.check import check
from nested_attn_core.training.data.example import DataError
from nested_attn_core.training.data.items import FileBytes, Stored
from nested_attn_core.training.data.pictures import check_mask, decode
from nested_attn_core.training.data.source import open_source
from nested_attn_core.training.data.store import FeatureStore
from nested_attn_core.training.objective import Noising
from nested_attn_core.training.optimisers import OptimiserSettings, make_optimiser
from nested_attn_core.training.states import StateFolder, TrainingStopped
from nested_attn_core.training.step import TrainingStep
from nested_attn_core.training.trainer import RunSettings, Trainer
from nested_attn_core.training.workers import Workers
from toy_pictures import config, disc_mask, encoded, picture, write_folder
from toy_training import ToyDenoiser, ToyExamples, ToyMethod, trainer


def test_states_of_which_none_can_be_read(tmp_path):
    for step in (3, 6):
        (tmp_path / f"state-{step:08d}.pt").write_bytes(b"no state")
    with pytest.raises(TrainingStopped, match="None of the 2 states in .* can be read; delete"):
        trainer(tmp_path).run()
    assert len(StateFolder(tmp_path).saved()) == 2, "what may yet be mended is left alone"


def test_a_method_without_weights(monkeypatch):
    monkeypatch.setattr(ToyMethod, "named_parameters", lambda self, **options: iter(()))
    with pytest.raises(ValueError, match="nothing that could be trained"):
        trainer(None)


class Broken(ToyExamples):
    def batch(self, numbers):
        batch = super().batch(numbers)
        batch.latents.fill_(float("inf"))
        return batch


def test_without_a_folder_it_says_that_nothing_is_kept():
    with pytest.raises(TrainingStopped, match="Nothing is saved in this run"):
        trainer(None, examples=Broken()).run()


def test_noise_levels_of_an_unknown_kind():
    with pytest.raises(ValueError, match='drawn "cubic"; choose uniform or logit-normal'):
        Noising("cubic")  # type: ignore[arg-type]


def test_an_unknown_optimiser():
    with pytest.raises(
        ValueError, match='optimiser "sgd" is unknown; use adamw, adamw8bit or muon'
    ):
        make_optimiser([torch.nn.Parameter(torch.zeros(1))], OptimiserSettings("sgd"))


def test_muon_of_an_old_torch(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="needs PyTorch 2.9 or newer, and this one is .*; update"):
        make_optimiser([torch.nn.Parameter(torch.zeros(1))], OptimiserSettings("muon"))


def test_muon_of_weights_in_shards():
    workers = Workers()
    workers.reshapes = True
    step = TrainingStep(ToyMethod(), ToyDenoiser(), Noising("logit-normal", 0.5))
    with pytest.raises(ValueError, match="shards them .FSDP.; set optimiser.name to adamw, or"):
        Trainer(
            step, ToyExamples(), RunSettings(steps=1, batch=1), OptimiserSettings("muon"), workers
        )


def test_a_mask_of_another_shape_than_its_picture():
    with pytest.raises(DataError, match="64 x 32 pixels and the picture 32 x 32; give both one"):
        check_mask(disc_mask((64, 32)), (32, 32))
    check_mask(disc_mask((64, 64)), (32, 32))


def test_a_picture_too_large_to_be_safe(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="huge.png is too large to be safe .* scale it down"):
        decode(encoded(picture(1)), "huge.png")


def test_a_mask_that_is_not_there():
    item = Stored("tom/1.png", "", None, None, lambda: b"")
    with pytest.raises(DataError, match="tom/1.png has no mask; put one beside it"):
        item.mask()


def test_a_shard_that_has_become_shorter(tmp_path):
    path = tmp_path / "cats.tar"
    path.write_bytes(bytes(100))
    read = FileBytes(path, 50, 50)
    assert len(read()) == 50
    path.write_bytes(bytes(60))
    with pytest.raises(DataError, match="cats.tar has become shorter than it was; bring it back"):
        read()


def test_a_long_picture(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 1})
    picture(1, (16, 60)).save(tmp_path / "pictures" / "tom" / "0.png")
    (finding,) = (f for f in check(config(tmp_path)).findings if f.kind == "shape")
    assert finding.text.startswith("16 x 60 pixels, of which the cut leaves less than ")
    assert "set data.buckets" in finding.text


def test_a_data_set_of_which_nothing_can_be_used(tmp_path):
    write_folder(tmp_path / "pictures", {"tom": 1})
    (tmp_path / "pictures" / "tom" / "0.txt").write_text("a mat")
    with pytest.raises(DataError, match="No picture in .* with --check for a report. The first: "):
        open_source(config(tmp_path))


def test_a_cached_entry_with_a_wrong_number(tmp_path, caplog):
    store = FeatureStore(tmp_path, "vision", "key")
    store.write({"a": {"vision": torch.arange(4.0)}})
    (block,) = tmp_path.rglob("*.safetensors")
    content = block.read_bytes()
    block.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = FeatureStore(tmp_path, "vision", "key")
    assert again.read("a") is None
    assert "is broken (the checksum does not fit); it is made again" in caplog.text
