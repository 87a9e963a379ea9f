"""`dev.py eval --base`: how well the base draws what plain captions name, by the ruler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common import core, log

from .reading import Reader, stack
from .sheets import Row, grid, save
from .studios import Painter

GALLERY = 100


@dataclass(frozen=True)
class Group:
    """Cases that are drawn from captions of one kind."""

    name: str
    cases: Sequence[Any]
    captions: Sequence[str]

    @property
    def identity_named(self) -> bool:
        return self.name.startswith("told ")


def groups(count: int, seed: int, told: bool, gallery: int) -> list[Group]:
    """Singles of each domain, pairs, and, where `told`, singles whose captions say who it is."""
    cases = core("evaluation.cases")
    domains = core("training.miniature.identities").DOMAINS
    pools = {domain: cases.subjects(domain, gallery) for domain in domains}
    singles = {d: cases.single_cases(d, pools[d], count, seed) for d in domains}
    made = [Group(d, found, [case.prompt() for case in found]) for d, found in singles.items()]
    pairs = cases.pair_cases(pools, count, seed)
    made.append(Group("pairs", pairs, [case.prompt() for case in pairs]))
    if told:
        made += [Group(f"told {d}", c, [case.told for case in c]) for d, c in singles.items()]
    return made


@dataclass(frozen=True)
class Read:
    """A group's pictures by source ("real", "coded", "base"), the ruler's answers, the truth."""

    group: Group
    pictures: dict[str, Tensor]
    answers: dict[str, dict[str, Tensor]]
    labels: dict[str, Tensor]


def read(painter: Painter, reader: Reader, group: Group, seed: int) -> Read:
    real = stack([case.picture for case in group.cases])
    seeds = [seed * 1000 + row for row in range(len(real))]
    drawn = painter.plain(group.captions, seeds)
    pictures = {"real": real, "coded": painter.coded(real), "base": drawn}
    labels = core("training.miniature.attributes").labels([case.record for case in group.cases])
    answers = {source: reader.answers(images) for source, images in pictures.items()}
    return Read(group, pictures, answers, labels)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def scores(found: Read, rows: Tensor | None = None) -> dict:
    """Accuracy by head and over all prompt heads that the captions name, of each source."""
    answers = core("evaluation.answers")
    asked = answers.named(found.labels)
    if rows is not None:
        asked = {head: where & rows for head, where in asked.items()}
    overall = {}
    for source, guesses in found.answers.items():
        right, of = answers.right(guesses, found.labels, asked)
        overall[source] = rounded(float(right.sum() / of.sum().clamp_min(1)))
    heads = {
        head: head_scores(found, head, where) for head, where in asked.items() if bool(where.any())
    }
    whole = {"questions": sum(h["questions"] for h in heads.values()), **relative(overall)}
    return {"prompt": whole, "heads": heads}


def head_scores(found: Read, head: str, rows: Tensor) -> dict:
    accuracy = core("evaluation.answers").accuracy
    figures = {
        source: rounded(accuracy(guesses, found.labels, head, rows))
        for source, guesses in found.answers.items()
    }
    return {"questions": int(rows.sum()), **relative(figures)}


def relative(figures: dict[str, float | None]) -> dict:
    """The figures, and the base's divided by the ruler's own on real pictures."""
    real, base = figures["real"], figures["base"]
    ratio = rounded(base / real) if real and base is not None else None
    return {**figures, "relative": ratio}


def shown_scores(found: Read, heads: Sequence[str]) -> dict:
    """The same for heads that are read wherever a picture shows them (who, left, identity)."""
    shown = core("evaluation.answers").shown(found.labels, heads)
    return {head: head_scores(found, head, rows) for head, rows in shown.items() if rows.any()}


def by_kind(found: Read) -> dict:
    """Overall accuracy of plain, styled and placed prompts apart."""
    styled = torch.tensor([bool(case.picture.style) for case in found.group.cases])
    placed = torch.tensor([bool(case.picture.place) for case in found.group.cases])
    kinds = {"plain": ~styled & ~placed, "styles": styled, "places": placed}
    return {name: scores(found, rows)["prompt"] for name, rows in kinds.items() if rows.any()}


def figures_of(found: Read, reader: Reader, gallery: int) -> dict:
    report = {"pictures": len(found.group.cases), **scores(found), "kinds": by_kind(found)}
    report["company"] = shown_scores(found, ["who", "left"])
    if found.group.identity_named:
        domain = found.group.name.removeprefix("told ")
        names = [h for h in core("training.miniature.attributes").identity_heads()]
        report["identity"] = shown_scores(found, [n for n in names if n.startswith(f"{domain}.")])
        report["embedding"] = embedding_scores(found, reader, domain, gallery)
    return report


def embedding_scores(found: Read, reader: Reader, domain: str, gallery: int) -> dict:
    """Identity and retrieval of what is drawn when the caption says who it is: a bound for
    encoders, that have to say it without words."""
    cases, measures = core("evaluation.cases"), core("evaluation.measures")
    first, second = (
        reader.embed(stack(cases.references(domain, gallery, which)), domain)
        for which in ("reference", "second")
    )
    colours = found.labels[f"{domain}.{reader_attribute(domain)}"] >= 0
    right = torch.arange(len(found.group.cases)) % gallery
    result: dict[str, Any] = {"gallery": gallery, "pictures": int(colours.sum())}
    for source in found.pictures:
        drawn = reader.embed(found.pictures[source][colours], domain)
        identity = measures.normalised_identity(drawn, first, second, right[colours])
        hits = measures.retrieved(drawn, first, right[colours]).double()
        result[source] = {
            "identity": rounded(float(identity.mean())),
            "retrieval_at_1": rounded(float(hits.mean())),
        }
    return result


def reader_attribute(domain: str) -> str:
    """Any attribute of the domain: all of them are labelled on the same pictures."""
    return next(iter(core("training.miniature.identities").ATTRIBUTES[domain]))


def line(name: str, row: dict) -> str:
    cells = "".join(
        "       -" if row[key] is None else f"{100 * row[key]:8.1f}"
        for key in ("real", "coded", "base", "relative")
    )
    return f"  {name:<18}{row['questions']:6d}{cells}"


def print_group(name: str, report: dict) -> None:
    print(f"\n{name} ({report['pictures']} pictures)")
    print(f"  {'':<18}{'n':>6}{'real':>8}{'coded':>8}{'base':>8}{'b/real':>8}")
    tables = [report["heads"], report["company"], report.get("identity", {})]
    for table in tables:
        for head, row in table.items():
            print(line(head, row))
    for kind, row in report["kinds"].items():
        print(line(f"all, {kind}", row))
    print(line("ALL", report["prompt"]))
    bound = report.get("embedding")
    if bound:
        for source in ("real", "coded", "base"):
            print(
                f"  {source:<6} identity {bound[source]['identity']:.3f}, retrieval among "
                f"{bound['gallery']} {100 * bound[source]['retrieval_at_1']:.0f} %"
            )


def total(reports: Sequence[dict]) -> dict:
    """Accuracy over the questions of several groups."""
    count = sum(report["prompt"]["questions"] for report in reports)
    figures = {
        source: rounded(
            sum(r["prompt"][source] * r["prompt"]["questions"] for r in reports) / max(count, 1)
        )
        for source in ("real", "coded", "base")
    }
    return {"questions": count, **relative(figures)}


def write_sheet(path: Path, found: Read, count: int = 40) -> None:
    """Real picture and drawn one of the same caption, side by side."""
    cells = [
        Row(caption, (found.pictures["real"][row], found.pictures["base"][row]))
        for row, caption in enumerate(found.group.captions[:count])
    ]
    save(grid(cells, columns=5), path)


def run(
    painter: Painter,
    reader: Reader,
    count: int,
    seed: int,
    out: Path | None,
    told: bool = True,
    gallery: int = GALLERY,
) -> dict:
    """Draws, reads, prints and returns the figures of all groups."""
    started, reports = time.monotonic(), {}
    for group in groups(count, seed, told, gallery):
        log(f"{group.name}: {len(group.cases)} pictures")
        found = read(painter, reader, group, seed)
        reports[group.name] = figures_of(found, reader, gallery)
        print_group(group.name, reports[group.name])
        if out:
            write_sheet(out / f"base-{group.name.replace(' ', '-')}.jpg", found)
    plain = [report for name, report in reports.items() if not name.startswith("told ")]
    pairs = reports["pairs"]["company"]
    result = {
        "seed": seed,
        "steps": painter.how.steps,
        "cfg": painter.how.cfg,
        **painter.about,
        "prompt": total(plain),
        "two_subjects": {"who": pairs["who"], "left": pairs["left"]},
        "groups": reports,
        "seconds": round(time.monotonic() - started, 1),
    }
    print("\nover all plain captions")
    print(line("ALL", result["prompt"]))
    print(line("two subjects", pairs["who"]))
    print(line("left", pairs["left"]))
    return result
