"""A style as a subject, docs/styles.md: the pictures, the data set and the measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import draw_styles
import measure_styles as measure
import styles
from commands.pack import ROOT, module

CONFIG = ROOT / "docs" / "examples" / "styles" / "styles.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of each style, one of each domain."""
    path = tmp_path_factory.mktemp("styles")
    draw_styles.write_all(path, 3)
    return path


@pytest.fixture(scope="module")
def questions() -> list[measure.Question]:
    return [measure.question(row, 0) for row in range(6)]


def test_the_folder_can_be_trained_on(folder):
    load = module("nested_attn_core.training.config_file").load_config
    config = load(CONFIG, [f'data.path="{folder.as_posix()}"', f'data.cache_folder="{folder}/c"'])
    assert module("nested_attn_core.training.data.check").check(config).exit_code == 0
    source, problems = module("nested_attn_core.training.data.source").open_source(config)
    assert len(source) == 3 * len(styles.TRAINED) and not problems
    rows = [source[row] for row in range(len(source))]
    assert {row.identity for row in rows} == set(styles.TRAINED)
    assert not set(styles.HELD_OUT) & {row.identity for row in rows}
    # The style is the subject: it stands where the world's captions name a style, and unnamed.
    assert all(row.caption.endswith(", <subject>") for row in rows)
    assert not any(name in row.caption for row in rows for name in styles.KNOWN.values() if name)


def test_a_question_shows_the_style_on_something_else(questions):
    for asked in questions:
        real, reference = asked.real, asked.reference
        assert real.who.held_out and reference.who.held_out
        assert real.who.domain != reference.who.domain and real.scene != reference.scene
        assert real.prompt("<s>").endswith(f", {real.scene}, <s>")
    assert len({(q.real.who.domain, q.reference.who.domain) for q in questions}) == 6
    again = measure.question(0, 0)
    assert np.array_equal(np.asarray(again.real.image), np.asarray(questions[0].real.image))


def test_the_judge_knows_real_pictures_from_wrong_ones(questions):
    """On what the figures rest: real pictures in a style are read as that style, and the
    references, which show another subject in another scene, as a leak."""
    judge = measure.Judge(measure.open_reader(), questions, measure.palette(questions))

    def figures(pictures, styled, head="style"):
        images = measure.stack([p.styled(styled) for p in pictures])
        return measure.summary({styled: judge.read(styled, images)}, (styled,), head)

    real, references = [q.real for q in questions], [q.reference for q in questions]
    for style in ("plain", "pixel-art", "pencil-sketch", "sepia-photo"):
        assert figures(real, style)["style"] >= 0.8, style
    seen, leaked = figures(real, "plain"), figures(references, "plain")
    assert seen["domain"] >= 0.8 and seen["reference_scene"] <= 0.2 and seen["prompt"] >= 0.8
    assert leaked["domain"] <= 0.2 and leaked["reference_domain"] >= 0.8
    assert leaked["reference_scene"] >= 0.8
    for style in (*styles.TINTS, *styles.HELD_OUT):
        found = figures(real, style, "colour")
        assert found["style"] >= 0.8 and found["hue_error_degrees_median"] < 15, style
    wrong = judge.read("tint-210", measure.stack([p.styled("tint-0") for p in real]))
    assert torch.as_tensor(wrong["hue_error"]).min() > 90


def test_figures_of_an_encoder(questions):
    """With the kittens' encoder, whose pictures of a style are no style: the class word is its."""
    artist = measure.open_artist(ROOT / "models" / "kitten.safetensors")
    painter = measure.open_painter(None, measure.Settings(steps=1, size=64))
    few = questions[:1]
    drawn = measure.draw_all(painter, artist, few, 0, 1.0)
    judge = measure.Judge(measure.open_reader(), few, measure.palette(few))
    groups = measure.figures(judge, drawn)
    known, tints, held_out = groups.values()
    assert known["encoder"]["pictures"] == len(styles.KNOWN)
    assert tints["encoder"]["pictures"] == len(styles.TINTS) and "told in words" not in tints
    # One picture stands for all styles where no style is told, so that one in four is right.
    assert known["class word"]["style"] == 0.25
    assert held_out["real pictures"]["style"] == 1.0
    assert drawn.encoder["plain"].shape == (1, 64, 64, 3)
    assert not torch.equal(drawn.encoder["plain"], drawn.encoder["tint-0"])
    table = list(measure.lines({"groups": groups}))
    assert len(table) == 2 + 4 + 3 + 3
    rows = measure.contact_sheet(few, drawn)
    assert [row.text for row in rows] == [*drawn.encoder, "class word"]
    assert measure.sheet(rows).height > 12 * 128
