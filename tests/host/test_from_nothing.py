"""The miniature from nothing: the stages it runs, and the base's step in both precisions."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands.pack import ROOT, module
from stages.common import core, tokenizer

base_stage: Any = importlib.import_module("stages.base")
lanes: Any = importlib.import_module("stages.lanes")
precision: Any = importlib.import_module("stages.precision")
miniature_stage: Any = importlib.import_module("stages.miniature")
shipped: Any = importlib.import_module("stages.shipped")
train: Any = importlib.import_module("commands.train")

CONFIGS = ROOT / "configs" / "miniature"
DOMAINS = core("training.miniature.identities").DOMAINS


def drawn(count: int) -> list[Any]:
    scenes, identities = core("training.miniature.scenes"), core("training.miniature.identities")
    who = [identities.identities(domain, held_out=False)[n] for n in range(3) for domain in DOMAINS]
    return [scenes.render((each,), f"step {row}") for row, each in enumerate(who[:count])]


def stacked(pictures: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(picture.image) for picture in pictures])


def drawn_batches(vocabulary: Any) -> Any:
    """Eight pictures, as the base is trained on them."""
    pictures = drawn(8)
    patch = core("training.miniature.config").PATCH
    latents = core("training.miniature.latents").PatchCode.of(shipped.code(), patch)
    rows = vocabulary.encode([picture.caption for picture in pictures], tokenizer())
    return core("training.miniature.base").Batches(
        latents.encode(base_stage.pixels(stacked(pictures))),
        rows,
        rows,
        vocabulary.encode([""], tokenizer())[0],
        torch.ones(8, 16, 16),
        torch.ones(8),
        size=8,
    )


def gradients_of_a_step(products: str) -> torch.Tensor:
    token_ids = shipped.code()["token_ids"].tolist()
    vocabulary = core("training.miniature.vocabulary").Vocabulary(token_ids)
    model = base_stage.build(len(vocabulary), 0)
    shipped.copy_into(model, shipped.parts("unet", "text"))
    with precision.mixed(products):
        loss = drawn_batches(vocabulary).loss(model, torch.Generator().manual_seed(1))
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert {grad.dtype for grad in found} == {torch.float32}
    return torch.cat([grad.flatten() for grad in found])


def test_a_step_in_bf16_goes_where_one_in_fp32_goes(gradients):
    exact, low = gradients_of_a_step("fp32"), gradients_of_a_step("bf16")
    assert not torch.equal(exact, low)
    # Another batch's gradient is nearly at right angles to this one's (cosine 0.13).
    assert torch.cosine_similarity(exact, low, 0) > 0.97
    assert float(exact.norm() / low.norm()) == pytest.approx(1, abs=0.05)


def test_attention_in_training_is_that_of_the_host():
    attention: Any = importlib.import_module("comfy.ldm.modules.attention")
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 24, 96, generator=generator)
    key, value = torch.randn(2, 2, 7, 96, generator=generator)
    hosts = attention.attention_basic(query, key, value, 3)
    ours = core("training.miniature.base").attend_in_fp32(
        attention.attention_basic, query.bfloat16(), key.bfloat16(), value.bfloat16(), heads=3
    )
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, hosts, atol=0.05, rtol=0)  # what bf16 takes off the inputs


@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_the_autoencoders_norms_compute_in_fp32(products):
    model = importlib.import_module("stages.autoencoder").build(0)
    met = []
    for norm in (part for part in model.modules() if isinstance(part, torch.nn.GroupNorm)):
        norm.register_forward_hook(lambda _, given, out: met.append((given[0].dtype, out.dtype)))
    with precision.mixed(products):
        picture = model.decode(torch.zeros(1, 16, 2, 2))
    assert set(met) == {(torch.float32, torch.float32)}
    assert picture.dtype == precision.PRECISIONS[products]


def test_fidelity_is_that_of_the_hosts_vae():
    stage: Any = importlib.import_module("stages.autoencoder")
    model = stage.build(0)
    shipped.copy_into(model, shipped.parts("vae"), prefixed=False)
    pictures = stacked(drawn(4))
    hosts = module("nodes.host.miniature").load_miniature().vae
    kept = torch.from_numpy(pictures) / 255
    found = hosts.decode(hosts.encode(kept)).reshape(kept.shape)
    expected = -10 * float((found - kept).square().mean().log10())
    assert stage.fidelity(model, pictures) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("bf16", "quicker"), [(0.5, "bf16"), (2.0, "fp32")])
def test_products_are_in_what_is_quicker_here_unless_asked_otherwise(monkeypatch, bf16, quicker):
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(precision, "convolution_seconds", seconds.get)
    parser = argparse.ArgumentParser()
    precision.add_argument(parser)
    assert precision.chosen(parser.parse_args([])) == quicker
    assert precision.chosen(parser.parse_args(["--precision", "fp32"])) == "fp32"


def test_every_stage_of_the_whole_exists_and_comes_once():
    phases = miniature_stage.phases(DOMAINS, ("person", "kitten"), "bf16")
    stages = [stage for lanes in phases for lane in lanes for stage in lane]
    names = [stage[0] for stage in stages]
    settings = [name for name in names if name.endswith(".toml")]
    changes = {stage[0]: stage for stage in stages}
    assert set(names) - set(settings) == set(train.STAGES) - {"miniature"}
    # The three domains' and no other: the pictures of monsters are drawn by their own example.
    assert {Path(name) for name in settings} == {CONFIGS / f"{d}.toml" for d in DOMAINS}
    config_file = core("training.config_file")
    for path in settings:
        config = config_file.load_config(path, changes[path][2:])
        assert config.run.precision == "bf16"
        assert config.data.source == "miniature"
    assert len({tuple(stage) for stage in stages}) == len(stages)
    for lanes in phases:
        assert len({miniature_stage.label(lane[0]) for lane in lanes}) == len(lanes)
    for earlier, later in (("data", "base"), ("base", "export"), ("backbone", "export")):
        order = [{stage[0] for lane in lanes for stage in lane} for lanes in phases]
        at = [
            next(i for i, names in enumerate(order) if name in names) for name in (earlier, later)
        ]
        assert at[0] < at[1]


def test_the_card_names_no_folder_of_whoever_trained():
    train_config: Any = importlib.import_module("commands.train_config")
    words = [str(CONFIGS / "robot.toml"), "--set", "run.steps=5", "data.path=/my pictures"]
    shown = train_config.command(words)
    assert shown.startswith("dev.py train configs/miniature/robot.toml --set run.steps=5 ")
    assert shown.endswith("'data.path=/my pictures'"), "what lies elsewhere is as it was given"


def test_a_stage_that_fails_is_named_and_ends_its_lane(capfd):
    lane = miniature_stage.jobs([["compare", "--domain", "unicorn"], ["references"]])
    assert str(lanes.run_lane(lane, 1)) == "compare --domain unicorn"
    written = capfd.readouterr()
    assert "references" not in written.out
    assert "invalid choice: 'unicorn'" in written.err
