"""A sheet of the miniature world: identities, looks, places, styles and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.common import core

from .reading import stack
from .sheets import Row, save, sheet

COLUMNS = 8


def write(path: Path) -> Path:
    """Draws the sheet; training identities only."""
    domains = core("training.miniature.identities").DOMAINS
    rows = [row for domain in domains for row in domain_rows(domain)]
    return save(sheet([*rows, *pair_rows()]), path)


def pool(domain: str) -> Sequence[Any]:
    return core("training.miniature.identities").identities(domain, held_out=False)


def row(text: str, pictures: Sequence[Any]) -> Row:
    return Row(text, list(stack(pictures)))


def domain_rows(domain: str) -> list[Row]:
    """Many identities; one identity in many looks and scenes; the same one in places and styles."""
    scenes, styles = core("training.miniature.scenes"), core("training.miniature.styles")
    render, known = scenes.render, pool(domain)
    who = known[0]
    many = [render((w,), f"sheet {w.key}", style="", place="") for w in known[:COLUMNS]]
    looks = [render((who,), f"sheet look {n}", style="", place="") for n in range(COLUMNS)]
    kinds = [("", p) for p in scenes.PLACES] + [(s, "") for s in styles.STYLES if s]
    placed = [render((who,), f"sheet kind {s}{p}", style=s, place=p) for s, p in kinds]
    names = ", ".join(s or p or "plain" for s, p in kinds)
    return [
        row(f"{domain}: {COLUMNS} of {len(known)} training identities", many),
        row(f"one identity: {scenes.describe(who)}", looks),
        row(f"the same one: {names}", placed),
    ]


def pair_rows() -> list[Row]:
    dataset = core("training.miniature.dataset")
    plan = dataset.Plan(pictures=0, pairs=COLUMNS)
    render = core("training.miniature.scenes").render
    pictures = [render(subjects, seed) for subjects, seed in plan.jobs()]
    return [row("pairs, as the training draws them", pictures)]
