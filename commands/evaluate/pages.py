"""`dev.py eval --docs F...`: writes the figures of reports into docs/miniature.md.

The page has blocks between `<!-- figures: NAME -->` and `<!-- end -->`; no figure in them is typed
by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pack

from .plots import TITLES
from .printing import percent, span

PAGE = pack.ROOT / "docs" / "miniature.md"
# Nested attention by its number of nested tokens.
TOKENS = {"1": "nested_1", "4": "nested_4", "16": "nested", "64": "nested_64"}
Report = Mapping[str, Any]


def main(reports: Sequence[Path], page: Path = PAGE) -> int:
    """Fills every block that one of the reports knows. Returns the exit code."""
    text = page.read_text(encoding="utf-8")
    for path in reports:
        report = json.loads(path.read_text(encoding="utf-8"))
        for name, lines in blocks(report).items():
            text = filled(text, name, lines)
            print(f"{page.name}: {name} from {path.name}")
    page.write_text(text, encoding="utf-8")
    return 0


def filled(text: str, name: str, lines: Iterable[str]) -> str:
    """The page with a block's content replaced. Raises SystemExit where it has no such block."""
    pattern = re.compile(rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content = "\n".join(lines)
    made, count = pattern.subn(lambda match: f"{match[1]}{content}\n{match[2]}", text)
    if count != 1:
        raise SystemExit(f"The page has {count} blocks <!-- figures: {name} -->; it needs one.")
    return made


def blocks(report: Report) -> dict[str, list[str]]:
    """Block name -> lines, for a report of any mode."""
    made: dict[str, Callable[[Report], dict[str, list[str]]]] = {
        "base": base_blocks,
        "quick": lambda found: {"domains": domains(found)},
        "multi": lambda found: {"multi": multi(found)},
        "inpaint": lambda found: {"inpaint": inpaint(found)},
        "full": full_blocks,
        "attention": lambda found: {"attention": attention(found)},
    }
    return made[report["mode"]](report)


def made_by(report: Report) -> str:
    return f"`{report['command']}`, seed {report['seed']}, {report['seconds']:.0f} s."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def base_blocks(report: Report) -> dict[str, list[str]]:
    made = {"base": base(report)}
    if any(name.startswith("told ") for name in report["groups"]):
        made["told"] = told(report)
    return made


def full_blocks(report: Report) -> dict[str, list[str]]:
    """By what was compared: the shipped encoders alone, numbers of nested tokens, or methods."""
    names = set(report["methods"])
    if names == {"nested"}:
        return {"two hundred": strengths(report)}
    if names <= {"nested, shipped", *TOKENS.values()}:
        return {"tokens": tokens(report)}
    return {
        "full domains": domains(report),
        "methods": methods(report),
        "frontier": frontier(report),
    }


def strengths(report: Report) -> list[str]:
    """The shipped encoders at every strength, with the real pictures' figures in brackets."""
    rows = [
        [
            domain,
            f"{point['strength']:g}",
            f"{span(point['identity'], point['identity_ci'])} [{found['identity_real']:.2f}]",
            f"{percent(point['retrieval_at_1'])} [{percent(found['retrieval_at_1_real'])}]",
            span(point["prompt_relative"], point["prompt_relative_ci"], 100) + " %",
        ]
        for domain, found in report["domains"].items()
        for point in found["curve"]
    ]
    head = ["domain", "strength", "identity", "retrieval among 100", "prompt, relative"]
    return [made_by(report), "", *table(head, rows)]


def tokens(report: Report) -> list[str]:
    """Nested attention by its number of nested tokens, in each domain."""
    every = report["methods_by_domain"]
    rows = [
        [domain, count, *map(_point, every[name][domain])]
        for domain in report["methods_domains"]
        for count, name in TOKENS.items()
        if name in every
    ]
    columns = [f"strength {point['strength']:g}" for point in report["methods"]["nested"]]
    return [made_by(report), "", *table(["domain", "nested tokens", *columns], rows)]


def _point(point: Report) -> str:
    return (
        f"{span(point['identity'], point['identity_ci'])}, {percent(point['retrieval_at_1'])}, "
        f"{percent(point['prompt_relative'])}"
    )


def told(report: Report) -> list[str]:
    """What the base draws of an identity that the caption names, attribute by attribute."""
    rows = []
    for name, found in report["groups"].items():
        if not name.startswith("told "):
            continue
        rows += [
            [head, str(row["questions"]), *_accuracies(row)]
            for head, row in found["identity"].items()
        ]
        bound = found["embedding"]
        of = [bound[source] for source in ("real", "coded", "base")]
        domain = name.removeprefix("told ")
        rows.append(
            [f"**{domain}**, identity", str(bound["pictures"])]
            + [f"{each['identity']:.2f}" for each in of]
            + [""]
        )
        rows.append(
            [f"**{domain}**, retrieval among {bound['gallery']}", str(bound["pictures"])]
            + [percent(each["retrieval_at_1"]) for each in of]
            + [""]
        )
    head = ["told in words", "pictures", "real", "through the autoencoder", "base", "base / real"]
    return [made_by(report), "", *table(head, rows)]


def base(report: Report) -> list[str]:
    rows = [
        [name, str(found["pictures"]), *_accuracies(found["prompt"])]
        for name, found in report["groups"].items()
    ]
    rows.append(["**all plain captions**", "", *_accuracies(report["prompt"])])
    for name, key in (
        ("two subjects, the right ones", "who"),
        ("of them the right one left", "left"),
    ):
        rows.append([name, "", *_accuracies(report["two_subjects"][key])])
    head = ["captions", "pictures", "real", "through the autoencoder", "base", "base / real"]
    return [made_by(report), "", *table(head, rows)]


def _accuracies(row: Report) -> list[str]:
    return [percent(row[key]) for key in ("real", "coded", "base", "relative")]


def domains(report: Report) -> list[str]:
    rows = []
    for name, found in report["domains"].items():
        best = found["best"]
        rows.append(
            [
                name,
                f"{found['strength']:g}",
                f"**{span(found['identity'], found['identity_ci'])}** "
                f"[{found['identity_real']:.2f}, {found['identity_without']:.2f}]",
                f"**{span(found['retrieval_at_1'], found['retrieval_at_1_ci'], 100)} %** "
                f"[{percent(found['retrieval_at_1_real'])}, "
                f"{percent(found['retrieval_at_1_without'])}]",
                f"{percent(found['prompt'])} [{percent(found['prompt_real'])}, "
                f"{percent(found['prompt_base'])}]",
                f"**{span(found['prompt_relative'], found['prompt_relative_ci'], 100)} %**",
                f"{found['diversity_relative']:.2f}",
                f"{found['prior_change']:g}",
                _best(best),
            ]
        )
    head = [
        "domain",
        "strength",
        "identity",
        "retrieval among " + " or ".join({str(f["gallery"]) for f in report["domains"].values()}),
        "prompt",
        "prompt, relative",
        "diversity",
        "change without the subject",
        "best with prompt >= 95 %",
    ]
    count = f"{report['images_per_domain']} pictures a domain and strength"
    return [f"{made_by(report)} {count}.", "", *table(head, rows)]


def _best(point: Report | None) -> str:
    if point is None:
        return "none"
    return (
        f"identity {point['identity']:.2f}, retrieval {percent(point['retrieval_at_1'])} "
        f"at {point['strength']:g}"
    )


def methods(report: Report) -> list[str]:
    rows = [
        [
            TITLES.get(name, name),
            f"{point['strength']:g}",
            span(point["identity"], point["identity_ci"]),
            percent(point["retrieval_at_1"]),
            span(point["prompt_relative"], point["prompt_relative_ci"], 100) + " %",
        ]
        for name, curve in report["methods"].items()
        for point in curve
    ]
    over = " and ".join(report["methods_domains"])
    head = ["method", "strength", "identity", "retrieval", "prompt, relative"]
    return [f"{made_by(report)} Over {over}.", "", *table(head, rows)]


def frontier(report: Report) -> list[str]:
    def listed(found: Sequence[float]) -> str:
        return ", ".join(f"{strength:g}" for strength in found) or "none"

    rows = [
        [TITLES.get(name, name), where, listed(s["beyond_nested"]), listed(s["nested_beyond"])]
        for where, found in {"both": report["frontier"], **report["frontier_by_domain"]}.items()
        for name, s in found.items()
    ]
    head = ["baseline", "domains", "its strengths beyond nested attention's curve", "the reverse"]
    return table(head, rows)


def multi(report: Report) -> list[str]:
    rows = []
    for who, found in report["methods"].items():
        for name, row in found.items():
            rows.append([f"**{TITLES.get(who, who)}**", f"all {name}", *_crowd(row)])
            kinds = row.get("kinds", {}).items()
            rows += [["", f"{kind} ({part['pictures']})", *_crowd(part)] for kind, part in kinds]
    head = ["method", "subjects", "identity", "alone", "relative", "leakage", "count", "prompt"]
    return [made_by(report), "", *table(head, rows)]


def _crowd(row: Report) -> list[str]:
    alone = row.get("identity_single")
    relative = None if not alone or alone <= 0 else row["identity"] / alone
    return [
        f"{row['identity']:.2f}",
        "-" if alone is None else f"{alone:.2f}",
        percent(relative),
        percent(row["leakage"]),
        percent(row["count_right"]),
        percent(row["prompt_relative"]),
    ]


def inpaint(report: Report) -> list[str]:
    """Put into the hole, [the class word alone, no photo, real]; then what is outside the hole."""
    rows = []
    for name, found in report["domains"].items():
        beside = [
            f"{percent(found[f'{key}_without'])}, {percent(found[f'{key}_free'])}, "
            f"{percent(found[f'{key}_real'])}"
            for key in ("retrieval_at_1", "seen", "prompt")
        ]
        rows.append(
            [
                name,
                f"**{span(found['identity'], found['identity_ci'])}** "
                f"[{found['identity_without']:.2f}, {found['identity_free']:.2f}, "
                f"{found['identity_real']:.2f}]",
                f"**{percent(found['retrieval_at_1'])}** [{beside[0]}]",
                f"**{percent(found['seen'])}** [{beside[1]}]",
                f"**{percent(found['prompt'])}** [{beside[2]}]",
                f"**{found['outside']:.1f}** [{found['outside_coded']:.1f}, "
                f"{found['outside_free']:.1f}]",
            ]
        )
    galleries = " or ".join({str(f["gallery"]) for f in report["domains"].values()})
    head = ["domain", "identity", f"retrieval among {galleries}", "seen", "prompt", "outside"]
    count = f"{report['images_per_domain']} photos a domain, strength {report['strength']:g}."
    return [f"{made_by(report)} {count}", "", *table(head, rows)]


def attention(report: Report) -> list[str]:
    names = list(report["sites"])
    sites = list(report["sites"][names[0]])
    rows = []
    for site in sites:
        found = [report["sites"][name][site] for name in names]
        cells = [f"{row['query_dependence']:.2f}, {row['outer_share']:.2f}" for row in found]
        rows.append([site, str(found[0]["queries"]), *cells])
    return [made_by(report), "", *table(["site", "queries", *names], rows)]
