"""The shipped code unpickles nothing, runs no text, starts no program and opens no connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from .static_rules import ROOT, problems, shipped


def test_the_shipped_code_keeps_the_rules() -> None:
    files = shipped()
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}, {problem}"
        for path in files
        for problem in problems(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from urllib.request import urlopen", "import requests",
        "import os, socket", "def f():\n    import subprocess", "eval('1')", "exec(x)",
        "__import__('os')",
        "import os\nos.system('x')", "os.popen('x')", "os.execv('x', [])", "torch.load(path)",
        "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)",
        "from huggingface_hub import hf_hub_download", "model.from_pretrained('x')",
        "import pydantic", "import ctypes",
    ],
)  # fmt: skip
def test_the_rules_find(text: str) -> None:
    assert len(list(problems(Path("nodes/x.py"), text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import torch", "from ..x import pickle_kind", "model.eval()", "import re\nre.compile('x')",
        "torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)",
    ],
)  # fmt: skip
def test_the_rules_leave_alone(text: str) -> None:
    assert list(problems(Path("nodes/x.py"), text)) == []


def test_training_alone_may_use_its_own_packages() -> None:
    assert list(problems(Path("nested_attn_core/training/x.py"), "import pydantic")) == []
    assert list(problems(Path("nested_attn_core/x.py"), "import pydantic")) != []


def test_there_is_nothing_to_install() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.split("#")[0].strip()] == []
    assert "\ndependencies = []\n" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not (ROOT / "install.py").exists()  # which managers of packs would run
