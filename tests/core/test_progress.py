"""What a training tells while it runs, and the card that it leaves."""

from __future__ import annotations

import logging
import sys

import pytest

from nested_attn_core.training.progress import Reporter
from nested_attn_core.training.trainer import Progress


def told(reporter: Reporter, first: int = 0) -> None:
    reporter.start(first)
    for step in range(first + 1, 5):
        reporter.step(Progress(step, 0.5 / step, 10.0, 0.4, 1e-3))
    reporter.close()


def test_lines_where_there_is_no_terminal(caplog):
    with caplog.at_level(logging.INFO, "nested_attention"):
        told(Reporter(4, 8, terminal=False))
    first, last = caplog.messages
    assert first.startswith("step 1/4 loss 0.5000, ") and " images/s, " in first
    assert last.startswith("step 4/4 loss 0.1250, ") and last.endswith(" 0 s left")


def test_a_bar_on_a_terminal(capsys):
    told(Reporter(4, 8, terminal=True), first=2)
    shown = capsys.readouterr().err
    assert "4/4" in shown and "loss=0.1250" in shown and "images_s=" in shown
    assert "step/s" in shown or "s/step" in shown


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        Reporter(4, 8, tmp_path)
