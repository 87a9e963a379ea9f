"""The report as a table to read, and as a file to keep."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path


def keep(report: dict, path: Path | None) -> None:
    """Writes the figures there, where they are to be kept."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def without(options: Collection[str], words: Sequence[str]) -> list[str]:
    """The words of a command without these options and the one value that each of them has."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before not in options and word not in options
    ]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def span(value: float, ends: Sequence[float], scale: float = 1, unit: str = "") -> str:
    """A value with its interval."""
    digits = 2 if scale == 1 else 0
    low, high = (f"{scale * end:.{digits}f}" for end in ends)
    return f"{scale * value:.{digits}f} ({low} to {high}){unit}"


def domain_lines(report: dict) -> list[str]:
    lines = []
    for name, found in report["domains"].items():
        identity = span(found["identity"], found["identity_ci"])
        retrieval = span(found["retrieval_at_1"], found["retrieval_at_1_ci"], 100, " %")
        prompt = span(found["prompt_relative"], found["prompt_relative_ci"], 100, " %")
        lines += [
            f"{name} at strength {found['strength']:g}",
            f"  identity          {identity}, real pictures of the same captions "
            f"{found['identity_real']:.2f}, class word alone {found['identity_without']:.2f}",
            f"  retrieval of {found['gallery']:<4} {retrieval}, real "
            f"{percent(found['retrieval_at_1_real'])}, class word alone "
            f"{percent(found['retrieval_at_1_without'])}",
            f"  prompt            {percent(found['prompt'])}, base "
            f"{percent(found['prompt_base'])}, real {percent(found['prompt_real'])}; "
            f"relative {prompt}",
            f"  diversity         {found['diversity_relative']:.2f} of the base's",
            f"  without a subject changed by {found['prior_change']:g}; "
            f"nodes against batches {found['nodes_difference']:.1e}",
        ]
    return lines


def method_lines(report: dict) -> list[str]:
    lines = [f"methods, over {', '.join(report['methods_domains'])}"]
    for name, curve in report["methods"].items():
        for point in curve:
            lines.append(
                f"  {name:<18}{point['strength']:5g}  identity "
                f"{span(point['identity'], point['identity_ci'])}  retrieval "
                f"{percent(point['retrieval_at_1'])}  prompt "
                f"{span(point['prompt_relative'], point['prompt_relative_ci'], 100, ' %')}"
            )
    for name, sides in report["frontier"].items():
        lines.append(
            f"  {name}: beyond nested at {sides['beyond_nested'] or 'none'}, nested beyond it at "
            f"{sides['nested_beyond'] or 'none'}"
        )
    return lines


def show(report: dict) -> None:
    print("\n".join([*domain_lines(report), *method_lines(report)]))
    print(f"{report['seconds']:.0f} s")


def inpaint_lines(report: dict) -> list[str]:
    return [
        f"{name}: identity {span(found['identity'], found['identity_ci'])}, class word alone "
        f"{found['identity_without']:.2f}, without a photo {found['identity_free']:.2f}; retrieval "
        f"{percent(found['retrieval_at_1'])}; prompt relative {percent(found['prompt_relative'])}; "
        f"outside {found['outside']:.1f} of 255, autoencoder alone {found['outside_coded']:.1f}"
        for name, found in report["domains"].items()
    ]
