"""The guard of the fuzz tests sees what it is there for."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .bench import sentence
from .guard import GUARD


def test_what_is_written(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (tmp_path / "in").mkdir()
    with GUARD.on():
        (inside / "a").write_text("x")
        outside.write_text("x")
        outside.read_text()
        os.replace(outside, tmp_path / "out2")
    assert set(GUARD.outside(inside)) == {outside, tmp_path / "out2"}
    outside.write_text("not watched")
    assert len(GUARD.outside(inside)) == 3


def test_what_is_forbidden() -> None:
    with GUARD.on():
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert any(act.startswith("subprocess.Popen") for act in GUARD.forbidden)
    with GUARD.on(), socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert any(act.startswith("socket.connect") for act in GUARD.forbidden)
    harmless = pickle.dumps(Path)
    with GUARD.on():
        assert pickle.loads(harmless) is Path
    assert any(act.startswith("pickle.find_class") for act in GUARD.forbidden)


@pytest.mark.parametrize(
    "text", ["No full stop", "Two\nlines.", "In /tmp/x.", "x" * 2000 + ".", ""]
)
def test_what_is_no_message(text: str) -> None:
    with pytest.raises(AssertionError):
        sentence(text)
