"""The model card beside an encoder's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import EncoderInfo

_NO_LICENCE = "not stated: ask whoever trained it before you pass it on"


def write_card(
    path: Path,
    info: EncoderInfo,
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    sheet: str | None = None,
) -> None:
    """A card in Markdown for the encoder that `info` describes.

    config   the training's settings, section by section
    figures  what was measured, by what it is called
    sheet    file name of the final sheet, beside the card
    """
    rows = [
        ("domain", info.domain),
        ("class word", info.class_word),
        ("base", info.base_family),
        ("reads images through", info.backbone.kind),
        ("trained on", info.trained_on),
        ("norm of the nested value", _norm(info)),
        ("token weight", f"{info.token_weight:g}"),
        ("nested tokens", str(info.config.tokens)),
        ("licence", info.licence or _NO_LICENCE),
        ("command", f"`{info.command}`"),
    ]
    parts = [
        f"# Nested encoder: {info.domain}",
        _table(("", ""), rows),
        "## Figures",
        _table(("figure", "value"), [(name, _shown(value)) for name, value in figures.items()]),
    ]
    if sheet is not None:
        parts += [
            "## Samples",
            f"![Sample sheet]({sheet})",
            "Left: a reference that the training did not see, where one was kept aside. Right: one "
            "image for each prompt.",
        ]
    parts += ["## Settings", f"```json\n{json.dumps(config, indent=2)}\n```"]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _norm(info: EncoderInfo) -> str:
    return f"{info.norm.factor:g} x the text value's" if info.norm.mode == "text" else "free"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
