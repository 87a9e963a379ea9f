"""Reading a training's settings from TOML; every mistake becomes one sentence."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import NestedAttentionError
from .config import TrainingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class ConfigError(NestedAttentionError):
    """A setting that cannot be used."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The settings of a file, all paths absolute (relative ones count from the file's folder).

    overrides   settings in the form "run.steps=100", with a value as TOML writes it; quotes may be
                left out

    Raises ConfigError, in one sentence, for a file that cannot be read and for settings that
    cannot be used.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no file {path}; give the path of a training's TOML file, for example a copy "
            "of one in configs/."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}; correct that line.") from error
    for override in overrides:
        _override(data, override)
    return parse_config(data, path.name).located(path.resolve().parent)


def parse_config(data: Mapping[str, Any], name: str = "The configuration") -> TrainingConfig:
    """Settings from plain values; raises ConfigError as load_config does. Paths stay as given."""
    try:
        return TrainingConfig.model_validate(dict(data))
    except ValidationError as error:
        # An unknown key explains a missing one, so it is told first.
        found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        more = len(found) - 1
        rest = f" (and {more} more)" if more else ""
        raise ConfigError(f"{name}: {_sentence(found[0])}{rest}.") from error


def settings() -> list[tuple[str, FieldInfo]]:
    """Every setting as ("section.key", field), in the order of the documentation."""
    return [
        (f"{section}.{key}", field)
        for section, part in TrainingConfig.model_fields.items()
        for key, field in _model(part).model_fields.items()
    ]


def expected(field: FieldInfo) -> str:
    """What a setting takes, in words: "a whole number from 1 to 256"."""
    kind = field.annotation
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return f"a list of {_options(item)}" if get_args(item) else "a list of texts"
    if get_args(kind):
        return _options(kind)
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        return f"{noun} {_bounds(field)}".strip()
    if kind is bool:
        return "true or false"
    limits = {
        name for part in field.metadata for name in ("min_length", "pattern") if hasattr(part, name)
    }
    if any(getattr(part, "pattern", None) for part in field.metadata):
        return 'a text of letters, digits, "_", "-" and "."'
    return "a text that is not empty" if "min_length" in limits else "a text"


def _model(field: FieldInfo) -> type[BaseModel]:
    kind = field.annotation
    assert isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind


def _options(kind: Any) -> str:
    named = [f'"{option}"' for option in get_args(kind)]
    return ", ".join(named[:-1]) + f" or {named[-1]}"


def _bounds(field: FieldInfo) -> str:
    bound: dict[str, Any] = {}
    for part in field.metadata:
        bound.update({n: getattr(part, n) for n in ("ge", "gt", "le", "lt") if hasattr(part, n)})
    low = f"of at least {bound['ge']}" if "ge" in bound else ""
    low = f"above {bound['gt']}" if "gt" in bound else low
    high = f"at most {bound['le']}" if "le" in bound else ""
    high = f"below {bound['lt']}" if "lt" in bound else high
    if "ge" in bound and "le" in bound:
        return f"from {bound['ge']} to {bound['le']}"
    return " and ".join(part for part in (low, high) if part)


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(
            f'"{override}" is not a setting; write it as section.key=value, for example '
            "run.steps=100."
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = data.setdefault(section, {})
    if isinstance(table, dict):
        table[name] = value


def _sentence(error: Any) -> str:
    place = [str(part) for part in error["loc"]]
    key = ".".join(place[:2])
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        return _unknown(place)
    field = _field(place)
    if error["type"] == "missing":
        if field is None:
            return f"the section [{key}] is missing, and its settings are needed"
        return f"{key} is missing; give {expected(field)}"
    if field is None:
        return f"{key} is {error['input']!r}; write it as a section [{key}] with its own settings"
    return f"{key} is {_shown(error['input'])}; it must be {expected(field)}"


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown(place: Sequence[str]) -> str:
    """A key that does not exist, with the closest one that does."""
    if len(place) == 1:
        known = list(TrainingConfig.model_fields)
        what = f"there is no section [{place[0]}]"
        listing = "sections are " + ", ".join(f"[{name}]" for name in known)
    else:
        known = list(_model(TrainingConfig.model_fields[place[0]]).model_fields)
        what = f"there is no setting {'.'.join(place)}"
        elsewhere = [key for key, _ in settings() if key.split(".")[1] == place[1]]
        if elsewhere:
            return f"{what}; it belongs into [{elsewhere[0].split('.')[0]}]"
        listing = f"[{place[0]}] has " + ", ".join(known)
    near = difflib.get_close_matches(place[-1], known, 1)
    return f'{what}; perhaps "{near[0]}" is meant' if near else f"{what}; {listing}"


def _field(place: Sequence[str]) -> FieldInfo | None:
    if len(place) < 2:
        return None
    return _model(TrainingConfig.model_fields[place[0]]).model_fields.get(place[1])
