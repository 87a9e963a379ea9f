"""Writes the figures of `dev.py bench --json F` into docs/performance.md, and draws its plots.

The page has blocks between `<!-- figures: NAME -->` and `<!-- end -->`; no figure in them is typed
by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pack
from evaluate.pages import filled

PAGE = pack.ROOT / "docs" / "performance.md"
PLOTS = pack.ROOT / "docs" / "performance"
MIB = 2**20
Report = Mapping[str, Any]


def main(path: Path) -> int:
    """Fills every block for which the report has figures. Returns the exit code."""
    report = json.loads(path.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    blocks: dict[str, tuple[str, Callable[[Report], Iterable[str]]]] = {
        "machine": ("sites", machine),
        "sites": ("sites", sites),
        "one row": ("sites", one_row),
        "sparse": ("sparse", sparse),
        "shares": ("shares", shares),
        "step": ("step", steps),
        "start": ("flatness", start),
    }
    for name, (needed, lines) in blocks.items():
        if needed in report:
            text = filled(text, name, lines(report))
    PAGE.write_text(text, encoding="utf-8")
    if "sites" in report:
        draw(report["sites"], PLOTS)
    return 0


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def machine(report: Report) -> list[str]:
    noise = sorted(row["noise"] for row in report["sites"])
    return [
        f"{report['machine']}, {report['threads']} thread, torch {report['torch']}; half the "
        f"distance between the quartiles of a row is {noise[len(noise) // 2]:.1%} of its median, "
        f"in the worst row {noise[-1]:.1%}."
    ]


def sites(report: Report) -> list[str]:
    head = ("base", "queries x width", "tokens", "subjects", "plain", "ours")
    others = ("decoupled, cached", "decoupled", "value tensor")
    return table((*head, *(f"ours / {name}" for name in others)), map(_site, _of(report, 2)))


def one_row(report: Report) -> list[str]:
    head = ("queries x width", "tokens", "plain", "ours", "ours / decoupled, cached")
    return table(
        (*head, "ours / decoupled"),
        (
            (f"{r['queries']} x {r['width']}", r["tokens"], r["plain"], r["ours"],
             r["ratios"]["decoupled_cached"], r["ratios"]["decoupled"])
            for r in _of(report, 1)
        ),
    )  # fmt: skip


def _site(row: Mapping[str, Any]) -> tuple[object, ...]:
    ratios = row["ratios"]
    return (
        row["base"], f"{row['queries']} x {row['width']}", row["tokens"], row["subjects"],
        row["plain"], row["ours"], ratios["decoupled_cached"], ratios["decoupled"],
        ratios.get("value_tensor", ""),
    )  # fmt: skip


def _of(report: Report, rows: int) -> list[Mapping[str, Any]]:
    return [row for row in report["sites"] if row["rows"] == rows]


def sparse(report: Report) -> list[str]:
    return table(
        ("tokens", "area", "threshold", "ours", "ours / decoupled, cached", "relative error"),
        (
            (r["tokens"], r["area"], r["threshold"], r["ours"], r["ratio"],
             f"{r['relative_error']:.1e}")
            for r in report["sparse"]
        ),
    )  # fmt: skip


def shares(report: Report) -> list[str]:
    return table(
        ("encoder", "threshold", "queries left out", "largest error of a pixel, of 1"),
        (
            (
                r["encoder"],
                r["threshold"],
                f"{r['left_out']:.1%}",
                f"{r['largest_pixel_error']:.4f}",
            )
            for r in report["shares"]
        ),
    )


def steps(report: Report) -> list[str]:
    head = ("model", "latent", "tokens", "subjects", "plain", "ours", "ours / plain")
    return table(
        (*head, "peak over plain, MiB", "nested keys and values, MiB"),
        (
            (r["model"], "x".join(map(str, r["latent"])), r["tokens"], r["subjects"], r["plain"],
             r["ours"], r["ratio"],
             f"{(r['peak_bytes_ours'] - r['peak_bytes_plain']) / MIB:.2f}",
             f"{r['nested_bytes'] / MIB:.2f}")
            for r in report["step"]
        ),
    )  # fmt: skip


def start(report: Report) -> list[str]:
    grown = report["flatness"]
    return [
        f"- importing the pack into a started host and listing its nodes: "
        f"{report['import_seconds']:.3f} s",
        f"- Load Nested Encoder, {report['load_bytes'] / MIB:.1f} MiB: "
        f"{report['load_seconds'] * 1e3:.1f} ms",
        f"- Encode Subject after the image model: {report['encode_seconds'] * 1e3:.1f} ms",
        f"- Apply Nested Attention: {report['apply_seconds'] * 1e3:.2f} ms",
        f"- reads back from the device, per site: {report.get('syncs_per_site', 'not measured')}",
        f"- grown between run {grown['runs'] // 5} and run {grown['runs']}: "
        f"{grown['tensor_bytes']} bytes of tensors, {grown['objects']} Python objects, "
        f"{grown['file_handles']} file handles",
    ]


def draw(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Cost over plain against tokens, against subjects, and against the number of queries."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    two = [row for row in rows if row["rows"] == 2]
    wide = [row for row in two if (row["queries"], row["width"]) == (1024, 1280)]
    sd15 = [row for row in two if row["base"].startswith("SD1.5")]
    pictures = {
        "tokens": ([r for r in wide if r["subjects"] == 1], "tokens", "nested tokens"),
        "subjects": ([r for r in wide if r["tokens"] == 64], "subjects", "subjects"),
        "queries": (
            [r for r in sd15 if r["subjects"] == 1 and r["tokens"] == 64],
            "queries",
            "queries of a site of SD1.5 (places of its feature map)",
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (chosen, key, label) in pictures.items():
        chosen = sorted(chosen, key=lambda row: (row[key], row["width"]))
        figure, axes = pyplot.subplots(figsize=(5, 3.4))
        for form in ("plain", "ours", "decoupled_cached", "decoupled"):
            line = [row[form] for row in chosen]
            axes.plot([row[key] for row in chosen], line, "o-", label=form.replace("_", ", "))
        axes.set(xlabel=label, ylabel="ms", xscale="log", yscale="log")
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
        pyplot.close(figure)
