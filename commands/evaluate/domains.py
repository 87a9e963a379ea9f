"""The evaluation: methods on held-out subjects of every domain, at several strengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.common import core, log

from . import figures, portraits, shipped
from .artists import Artist
from .exam import Exam, Size, prepare
from .reading import Reader
from .studios import Painter
from .units import Desk, Unit

TRAINED = 1.0  # the strength that encoders are trained with
GOAL = 0.95  # of the base's prompt alignment
NODE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Plan:
    """What is evaluated. `node_rows`: pictures a domain that go through the shipped nodes, too."""

    size: Size = Size()
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.4)
    node_rows: int = 2
    seed: int = 0

    @property
    def headline(self) -> float:
        """The strength whose figures stand for the domain: the trained one where it is drawn."""
        return TRAINED if TRAINED in self.strengths else max(self.strengths)


QUICK = Plan(
    Size(pictures=40, gallery=100, subjects=40, prompts=4, seeds=4),
    (0.5, 1.0, 1.2, 1.4),
    node_rows=1,
)


@dataclass
class Found:
    """What is known of one domain: the trained strength's figures, and a curve a method."""

    exam: Exam
    figures: dict = field(default_factory=dict)
    answers: dict[str, dict[float, figures.Answers]] = field(default_factory=dict)


def examine(
    painter: Painter, desk: Desk, reader: Reader, domain: str, artists: Sequence[Artist], plan: Plan
) -> Found:
    """All units of one domain; those that are kept from an earlier run are not drawn again."""
    exam = prepare(domain, plan.seed, plan.size, reader, painter.studio.vision)
    found, base = Found(exam), desk.plain(exam)
    for artist in artists:
        found.answers[artist.name] = answers_of(desk, exam, artist, base, plan)
    shipped_one = artists[0]
    graph = shipped.Graph(painter, domain)
    difference = shipped.node_difference(graph, painter, exam, shipped_one, plan.node_rows)
    if difference > NODE_TOLERANCE:
        log(f"{domain}: the shipped nodes differ from the batches by {difference:.2g}")
    found.figures = {
        **headline(found.answers[shipped_one.name], desk, exam, plan),
        "prior_change": shipped.prior_change(graph, exam, plan.node_rows),
        "nodes_difference": difference,
    }
    return found


def answers_of(
    desk: Desk, exam: Exam, artist: Artist, base: Unit, plan: Plan
) -> dict[float, figures.Answers]:
    """An artist's pictures, read, by strength; those of the headline with several seeds, too."""
    return {
        strength: figures.Answers(
            desk.of(exam, artist, strength, varied=strength == plan.headline), base, exam.who
        )
        for strength in plan.strengths
    }


def headline(answers: dict[float, figures.Answers], desk: Desk, exam: Exam, plan: Plan) -> dict:
    """The figures at the headline's strength, and the best point that keeps the prompt."""
    frontier = core("evaluation.frontier")
    made = figures.domain(answers[plan.headline], desk.real(exam), exam, plan.seed)
    curve = _curve(answers, plan.seed)
    return {
        "strength": plan.headline,
        **made,
        "best": frontier.best_within(curve, GOAL),
        "curve": curve,
    }


def _curve(answers: dict[float, figures.Answers], seed: int) -> list[dict]:
    return [figures.point([found], strength, seed) for strength, found in answers.items()]


def run(
    painter: Painter,
    desk: Desk,
    reader: Reader,
    artists: Callable[[str], Sequence[Artist]],
    domains: Sequence[str],
    plan: Plan,
    out: Path | None = None,
) -> dict:
    """The report of all domains; artists(domain) has the shipped encoder first."""
    started, found = time.monotonic(), {}
    for domain in domains:
        there = artists(domain)
        found[domain] = examine(painter, desk, reader, domain, there, plan)
        if out:
            shown = found[domain]
            portraits.write(out, painter, desk, shown.exam, there, shown.answers, plan.headline)
    made = report(found, plan)
    how = asdict(painter.how)
    return {
        "seed": plan.seed,
        "images_per_domain": plan.size.pictures,
        "sampling": how,
        **painter.about,
        **made,
        "seconds": round(time.monotonic() - started, 1),
    }


def report(found: dict[str, Found], plan: Plan) -> dict:
    """Domains, methods over the domains that all of them were trained for, and the frontier."""
    names = list(dict.fromkeys(name for part in found.values() for name in part.answers))
    common = [d for d, part in found.items() if set(part.answers) == set(names)] or list(found)
    methods = {
        name: [
            figures.point([found[d].answers[name][strength] for d in common], strength, plan.seed)
            for strength in plan.strengths
        ]
        for name in names
    }
    by_domain = {
        name: {
            d: _curve(part.answers[name], plan.seed)
            for d, part in found.items()
            if name in part.answers
        }
        for name in names
    }
    return {
        "domains": {domain: part.figures for domain, part in found.items()},
        "methods": methods,
        "methods_domains": common,
        "methods_by_domain": by_domain,
        "frontier": frontier(methods),
        "frontier_by_domain": {
            d: frontier({name: curves[d] for name, curves in by_domain.items()}) for d in common
        },
    }


def frontier(methods: dict[str, list[dict]]) -> dict:
    """By baseline: its strengths that lie beyond nested attention's curve, and the reverse."""
    beyond = core("evaluation.frontier").beyond
    ours = "nested"
    others = [name for name in methods if not name.startswith(ours + ",") and name != ours]
    return {
        name: {
            "beyond_nested": [p["strength"] for p in methods[name] if beyond(p, methods[ours])],
            "nested_beyond": [p["strength"] for p in methods[ours] if beyond(p, methods[name])],
        }
        for name in others
    }
