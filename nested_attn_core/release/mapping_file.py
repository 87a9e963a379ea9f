"""The mapping file: a JSON file beside an encoder that says what its tensors are.

`model.safetensors` is explained by `model.mapping.json`; docs/weights.md describes its entries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import NestedAttentionError


@dataclass(frozen=True)
class Mapping:
    """What a mapping file says; empty where it leaves the choice to the loader.

    resampler  what stands before `latents` in the resampler's names
    keys, values   names of the nested keys and values, with * for the place
    tensors    our tensor names to the file's; replaces what the loader would find
    ignore     beginnings of names that are to be left aside
    head_dim   width of one head of the resampler; image_size of the image model's input, in pixels
    class_word, domain   of the subjects
    """

    resampler: str | None = None
    keys: str = ""
    values: str = ""
    tensors: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    head_dim: int | None = None
    image_size: int | None = None
    class_word: str = ""
    domain: str = ""


def mapping_path(encoder: str | Path) -> Path:
    """Where an encoder's mapping file would lie."""
    return Path(encoder).with_suffix(".mapping.json")


def read_mapping(encoder: str | Path) -> Mapping | None:
    """The mapping file beside an encoder, or None where there is none.

    Raises NestedAttentionError in one sentence for one that cannot be used.
    """
    path = mapping_path(encoder)
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(path, f"cannot be opened ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise _refusal(path, "is not an object with named entries")
    known = [f.name for f in fields(Mapping)]
    for name, value in data.items():
        if name not in known:
            raise _refusal(path, f'has the entry "{name}"; known are {", ".join(known)}')
        problem = _problem(name, value)
        if problem:
            raise _refusal(path, f'gives "{name}" as {value!r}; {problem} is expected')
    if bool(data.get("keys")) != bool(data.get("values")):
        raise _refusal(path, "gives only one of keys and values; give both")
    return Mapping(**{**data, "ignore": tuple(data.get("ignore", ()))})


def _problem(name: str, value: Any) -> str:
    """What was expected, or nothing where the value is right."""
    if name in ("head_dim", "image_size"):
        return "" if type(value) is int and 0 < value < 1 << 16 else "a whole number above 0"
    if name == "ignore":
        right = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        return "" if right else "a list of beginnings of names"
    if name == "tensors":
        right = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        return "" if right else "an object of names"
    if not isinstance(value, str):
        return "a text"
    if name in ("keys", "values") and value.count("*") != 1:
        return "a name with one *"
    return ""


def _refusal(path: Path, problem: str) -> NestedAttentionError:
    return NestedAttentionError(
        f'The mapping file "{path.name}" {problem}; docs/weights.md shows how to write one.'
    )
