"""What differs between versions of the host, in one place.

The oldest host that the tests run on is 0.3.75. What this pack must know of others:

- before 0.3.48 there are no entry points and no `comfy_api.latest`
- before 0.10 io.Schema has no search_aliases, and an unknown field is an error (known_fields)
- from 0.11 the host may put another class in ModelPatcher's place (patcher_class)
- before 0.13 on_load of an extension is never called, and clones of a model copy deeply what hangs
  on them: patches are made so that this does no harm (patch.NestedPatch.__deepcopy__)
- before 0.7 values of a combo are not checked: nodes check them
- before 0.22 ClipVisionModel takes its sizes from a file only (miniature.vision_from)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

OLDEST = "0.3.75"
OLDEST_PYTHON = (3, 10)
# Module, and the names in it without which no node could work; a dot leads into a class.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "comfy_api.latest": ("ComfyExtension", "io.ComfyNode", "io.Schema", "ui.PreviewImage"),
    "comfy.patcher_extension": (
        "WrappersMP.OUTER_SAMPLE",
        "WrappersMP.CALC_COND_BATCH",
        "WrappersMP.APPLY_MODEL",
        "CallbacksMP.ON_CLONE",
    ),
    "comfy.conds": ("CONDRegular", "CONDNoiseShape"),
}


def too_old() -> str:
    """One sentence where this host or its Python is too old for the pack, else nothing."""
    if sys.version_info < OLDEST_PYTHON:
        return (
            f"Nested Attention needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, and "
            f"ComfyUI runs on {sys.version.split()[0]}; update Python."
        )
    if find_spec("comfy") is None:
        return ""  # no host at all: a command that uses the core alone
    if all(_has(module, name) for module, names in NEEDED.items() for name in names):
        return ""
    return (
        f"Nested Attention needs ComfyUI {OLDEST} or newer, and this is {version()}; update "
        "ComfyUI."
    )


def version() -> str:
    """The host's version, as far as it says one."""
    try:
        return str(importlib.import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return "a version that does not tell its number"


def known_fields(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a dataclass of this host has."""
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in options.items() if name in known}


def patcher_class() -> Any:
    """What the host manages models with; to be asked when it is used, as it changes at start."""
    patcher = importlib.import_module("comfy.model_patcher")
    return getattr(patcher, "CoreModelPatcher", patcher.ModelPatcher)


def _has(module: str, name: str) -> bool:
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True
