"""Loads the pack into a process the way the host loads a custom node: as one package, by path."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nested_attention_pack"


def host_path() -> Path:
    """The ComfyUI folder: `COMFYUI_PATH`, else the copy that `dev.py setup` unpacked, else the one
    in whose custom_nodes the pack lies.

    Raises FileNotFoundError where there is no ComfyUI.
    """
    own = ROOT / ".local" / "ComfyUI"
    around = ROOT.parents[1]
    if not own.is_dir() and ROOT.parent.name == "custom_nodes" and (around / "main.py").is_file():
        own = around
    path = Path(os.environ.get("COMFYUI_PATH") or own).expanduser()
    if not (path / "main.py").is_file():
        raise FileNotFoundError(
            f"{path} is not a ComfyUI folder (no main.py): run `python3 dev.py setup`, "
            "or set COMFYUI_PATH to your ComfyUI."
        )
    return path.resolve()


def start_host(cpu: bool | None = None) -> Path:
    """Makes `import comfy` work in this process; call it before anything imports comfy.

    cpu: run on the CPU; None asks torch whether there is a GPU. Returns the host's folder.
    """
    host = host_path()
    # In front, because the repository has a package `nodes` that must not hide the host's nodes.py.
    sys.path[:] = [str(host), *(entry for entry in sys.path if entry != str(host))]
    if cpu is None:
        cpu = not has_gpu()
    cli_args = importlib.import_module("comfy.cli_args")
    cli_args.args.cpu = cpu or cli_args.args.cpu
    return host


def has_gpu() -> bool:
    """Whether torch sees an accelerator that the host would use."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def load_pack() -> ModuleType:
    """The pack's top package, imported once; `start_host` first."""
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{ROOT} has no __init__.py that Python can load.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACKAGE]
        raise
    return module


def module(name: str) -> ModuleType:
    """A module of the pack by its dotted name inside it, such as `nodes.host.sites`."""
    load_pack()
    return importlib.import_module(f"{PACKAGE}.{name}")
