"""`dev.py eval --plots F`: the identity-prompt plane out of a report, drawn with matplotlib."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
MARKERS = "osD^vP*X<>"
TITLES = {
    "nested": "nested attention",
    "nested, shipped": "nested attention, as shipped",
    "single_token": "single token",
    "appended_tokens": "tokens appended to the context",
    "decoupled": "decoupled cross-attention",
    "nested_no_norm": "nested, no norm control",
    "nested_1": "nested, 1 token",
    "nested_4": "nested, 4 tokens",
    "nested_64": "nested, 64 tokens",
    "nested_key_too": "nested, keys too",
}


def main(report: Path, out: Path | None) -> int:
    """Writes the plots into `out`, or beside the report."""
    try:
        import matplotlib
    except ImportError:
        print(
            "Plots need matplotlib, which is not installed here: install it (pip install "
            "matplotlib), or unset COMFYUI_PATH to use the pinned environment.",
            file=sys.stderr,
        )
        return 1
    matplotlib.use("agg")
    made = json.loads(report.read_text(encoding="utf-8"))
    folder = out or report.parent
    folder.mkdir(parents=True, exist_ok=True)
    for path in write(made, folder):
        print(f"wrote {path}")
    return 0


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """One plot over the compared domains, one a domain."""
    over = " and ".join(report["methods_domains"])
    paths = [plane(report["methods"], f"over {over}", folder / "plane.png")]
    domains = report["domains"]
    for domain in domains:
        curves = {
            name: by_domain[domain]
            for name, by_domain in report["methods_by_domain"].items()
            if domain in by_domain
        }
        paths.append(plane(curves, domain, folder / f"plane-{domain}.png"))
    return paths


def plane(curves: Curves, title: str, path: Path) -> Path:
    """Prompt alignment to the right, identity upwards; one curve a method, its points strengths."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for number, (name, points) in enumerate(curves.items()):
        _curve(axes, name, points, number)
    axes.axvline(1, color="#cccccc", linewidth=1, zorder=0)
    axes.axhline(1, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xlabel("prompt alignment, relative to the base with the class word")
    axes.set_ylabel("identity (1: two real pictures, 0: two subjects)")
    axes.set_title(f"Identity against prompt, {title}; 95 % intervals")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _curve(axes: Any, name: str, points: Sequence[Mapping[str, Any]], number: int) -> None:
    ordered = sorted(points, key=lambda point: point["strength"])
    x = [point["prompt_relative"] for point in ordered]
    y = [point["identity"] for point in ordered]
    ours = name.startswith("nested,") or name == "nested"
    axes.errorbar(
        x,
        y,
        xerr=_reach(ordered, "prompt_relative"),
        yerr=_reach(ordered, "identity"),
        label=TITLES.get(name, name),
        color=f"C{number}",
        marker=MARKERS[number % len(MARKERS)],
        markersize=6,
        linewidth=2.5 if ours else 1.2,
        elinewidth=0.7,
        alpha=0.95,
    )
    for point, left, top in zip(ordered, x, y, strict=True):
        axes.annotate(
            f"{point['strength']:g}",
            (left, top),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            color=f"C{number}",
        )


def _reach(points: Sequence[Mapping[str, Any]], name: str) -> list[list[float]]:
    """Distances from the value to both ends of its interval."""
    pairs = [(point[name], point[f"{name}_ci"]) for point in points]
    return [
        [max(0.0, value - low) for value, (low, _) in pairs],
        [max(0.0, high - value) for value, (_, high) in pairs],
    ]
