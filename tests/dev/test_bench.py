"""That the benchmarks run to their end and keep what they measured; how fast is not asked here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_short_form_measures_steps_and_what_is_around_a_run(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "benchmarks/bench.py", "--quick", "--json", str(report)]
    done = subprocess.run(
        [*command, "--parts", "start", "step"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert {row["model"] for row in found["step"]} == {"miniature"}
    assert all(row["peak_bytes_ours"] > row["peak_bytes_plain"] > 0 for row in found["step"])
    assert found["flatness"]["tensor_bytes"] == found["flatness"]["file_handles"] == 0
