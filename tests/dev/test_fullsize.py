"""`dev.py fullsize`, with thin models of the real layouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.full_size_models import SITES
from commands.pack import ROOT

THIN = ("--thin", "--cpu", "--tokens", "32", "--edge", "64", "--steps", "1")


def fullsize(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "commands" / "fullsize.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("family", "dtype"), [("sdxl", "fp8"), ("sd15", "bf16")])
def test_all_sites_are_visited_and_all_is_told(tmp_path: Path, family: str, dtype: str) -> None:
    written = tmp_path / "found.json"
    done = fullsize(*THIN, "--family", family, "--dtype", dtype, "--json", str(written))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(written.read_text())
    assert found["sites visited"] == found["sites"] == SITES[family]
    assert found["weights"] == dtype and found["problems"] == []
    assert found["loaded by the host, MB"]["NestedEncoder"] > 0
    assert found["nested keys and values, MB"] > 0
    for part in ("sampling without", "sampling with"):
        assert found[part]["peak memory, MB"] > 100 and found[part]["seconds"] > 0
