"""Names for files that people type, on any system."""

from __future__ import annotations

import re

from .errors import NestedAttentionError

SUFFIX = ".safetensors"
# What Windows opens as a device, whatever the folder, the ending and spaces before it.
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[\d\u00b9\u00b2\u00b3])", re.IGNORECASE)


def file_stem(name: str) -> str:
    """The stem in `anna`, ` anna ` or `anna.safetensors`, which leads to no other folder.

    Raises NestedAttentionError for what is no name of a file on some system.
    """
    stem = name.strip().removesuffix(SUFFIX).strip()
    # \w is letters and digits of any script, so that no separator of any system passes.
    whole = re.fullmatch(r"[\w\- ]+(\.[\w\- ]+)*", stem)
    if whole is None or len(stem.encode()) > 200 or _DEVICES.fullmatch(stem.split(".")[0].strip()):
        raise NestedAttentionError(
            f'"{name}" is no name for a file; use letters, digits, spaces, "_" and "-", and '
            "no folder, for example anna."
        )
    return stem
