"""Who may read a file that the pack writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nested_attn_core.whole_files import save_whole


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "x.safetensors"
    before = os.umask(umask)
    try:
        for _ in range(2):  # new, then over itself
            save_whole(path, {"a": torch.ones(2)}, {"key": "value"})
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"key": "value"} and torch.equal(
            file.get_tensor("a"), torch.ones(2)
        )
