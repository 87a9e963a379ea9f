"""The miniature from nothing: the stages it runs, and the base's step in both precisions."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands.pack import ROOT
from stages.common import core, tokenizer

base_stage: Any = importlib.import_module("stages.base")
lanes: Any = importlib.import_module("stages.lanes")
miniature_stage: Any = importlib.import_module("stages.miniature")
shipped: Any = importlib.import_module("stages.shipped")
train: Any = importlib.import_module("commands.train")

CONFIGS = ROOT / "configs" / "miniature"
DOMAINS = core("training.miniature.identities").DOMAINS


def drawn_batches(vocabulary: Any) -> Any:
    """Eight pictures, as the base is trained on them."""
    scenes, identities = core("training.miniature.scenes"), core("training.miniature.identities")
    who = [identities.identities(domain, held_out=False)[n] for n in range(3) for domain in DOMAINS]
    pictures = [scenes.render((each,), f"step {row}") for row, each in enumerate(who[:8])]
    patch = core("training.miniature.config").PATCH
    latents = core("training.miniature.latents").PatchCode.of(shipped.code(), patch)
    rows = vocabulary.encode([picture.caption for picture in pictures], tokenizer())
    return core("training.miniature.base").Batches(
        latents.encode(base_stage.pixels(np.stack([np.asarray(p.image) for p in pictures]))),
        rows,
        rows,
        vocabulary.encode([""], tokenizer())[0],
        torch.ones(8, 16, 16),
        torch.ones(8),
        size=8,
    )


def gradients_of_a_step(precision: str) -> torch.Tensor:
    token_ids = shipped.code()["token_ids"].tolist()
    vocabulary = core("training.miniature.vocabulary").Vocabulary(token_ids)
    model = base_stage.build(len(vocabulary), 0, precision)
    shipped.copy_into(model, shipped.parts("unet", "text"))
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


def test_every_stage_of_the_whole_exists_and_comes_once():
    phases = miniature_stage.phases(DOMAINS, ("person", "kitten"))
    stages = [stage for lanes in phases for lane in lanes for stage in lane]
    names = [stage[0] for stage in stages]
    settings = [name for name in names if name.endswith(".toml")]
    assert set(names) - set(settings) == set(train.STAGES) - {"miniature"}
    # The three domains' and no other: the pictures of monsters are drawn by their own example.
    assert {Path(name) for name in settings} == {CONFIGS / f"{d}.toml" for d in DOMAINS}
    config_file = core("training.config_file")
    for path in settings:
        config = config_file.load_config(path, [])
        assert config.data.source == "miniature"
    assert len({tuple(stage) for stage in stages}) == len(stages)
    for lanes in phases:  # what runs at the same time is told apart by its last word
        assert len({lane[0][-1] for lane in lanes}) == len(lanes)
    for earlier, later in (("data", "base"), ("base", "export"), ("backbone", "export")):
        order = [{stage[0] for lane in lanes for stage in lane} for lanes in phases]
        at = [
            next(i for i, names in enumerate(order) if name in names) for name in (earlier, later)
        ]
        assert at[0] < at[1]


def test_a_stage_that_fails_is_named_and_ends_its_lane(capfd):
    lane = miniature_stage.jobs([["compare", "--domain", "unicorn"], ["references"]])
    assert str(lanes.run_lane(lane, 1)) == "compare --domain unicorn"
    written = capfd.readouterr()
    assert "references" not in written.out
    assert "invalid choice: 'unicorn'" in written.err
