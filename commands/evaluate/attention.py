"""`dev.py eval --attention`: which nested tokens which regions of a picture choose, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from methods.sampling import Cast
from stages.common import core, log

from .artists import NAME, shipped
from .reading import stack
from .sheets import Row, save, sheet
from .studios import Painter

SIDE = 128


class Watched(nn.Module):
    """A nested method whose sites a recorder watches; what it draws stays the same."""

    def __init__(self, method: Any, recorder: Any):
        super().__init__()
        self.method, self.attend = method, recorder

    def forward(self, features: Tensor, context: Tensor, positions: Tensor, strength: float):
        marked = core("evaluation.attention_maps").Marked
        found = self.method(features, context, positions, strength)
        sites = {
            site: [marked(site, item) for item in items] for site, items in found.sites.items()
        }
        return replace(found, sites=sites)


@dataclass(frozen=True)
class Study:
    """One picture and the maps of its sites: nested (N, n), outer (N,), by site."""

    prompt: str
    reference: Tensor
    picture: Tensor
    nested: dict[str, Tensor]
    outer: dict[str, Tensor]


def studies(painter: Painter, domain: str, count: int, seed: int) -> list[Study]:
    """Held-out subjects, one plain picture each."""
    cases = core("evaluation.cases")
    pool = cases.subjects(domain, count)
    plain = cases.single_cases(domain, pool, count, seed)
    references = stack(cases.references(domain, count, "reference"))
    recorder = core("evaluation.attention_maps").Recorder()
    watched = Watched(shipped(domain).method, recorder).eval()
    prompts = [case.prompt([f"<{NAME}>"]) for case in plain]
    texts = painter.studio.read(prompts, {NAME: domain})
    cast = Cast(watched, painter.studio.features(references), texts.positions[NAME])
    seeds = [seed * 1_000_000 + row for row in range(count)]
    pictures = painter.studio.draw(texts, seeds, [cast], painter.how)
    means = {site: recorder.means(site) for site in recorder.nested}
    return [
        Study(
            prompts[row],
            references[row],
            pictures[row],
            {site: nested[row] for site, (nested, _) in means.items()},
            {site: outer[row] for site, (_, outer) in means.items()},
        )
        for row in range(count)
    ]


def enlarged(pixels: Tensor) -> Tensor:
    """(side, side, 3) -> (SIDE, SIDE, 3), every query a square."""
    factor = SIDE // len(pixels)
    return pixels.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def heat(values: Tensor, largest: float) -> Tensor:
    """(side, side), up to `largest` -> (side, side, 3)"""
    return core("heat").heat(values / max(largest, 1e-9))


def choice_map(nested: Tensor, outer: Tensor) -> Tensor:
    """The favourite token of each query by colour, brighter where it looks at the subject more."""
    square = core("evaluation.attention_maps").square
    painted = core("heat").token_colours(nested.shape[1])[square(nested.argmax(1))]
    shown = 0.25 + 0.75 * square(outer / outer.max().clamp_min(1e-9))[..., None]
    return enlarged(painted * shown)


def sites_sheet(found: Study) -> list[Row]:
    """Reference, picture, then a row of choices and a row of the outer attention by site."""
    square = core("evaluation.attention_maps").square
    sites = list(found.nested)
    chosen = [choice_map(found.nested[site], found.outer[site]) for site in sites]
    looked = [
        enlarged(heat(square(found.outer[site]), float(found.outer[site].max()))) for site in sites
    ]
    most = ", ".join(f"{float(found.outer[site].max()):.2f}" for site in sites)
    return [
        Row(found.prompt, (found.reference, *chosen)),
        Row(f"outer attention of <{NAME}>, largest: {most}", (found.picture, *looked)),
    ]


def tokens_sheet(found: Study, site: str) -> list[Row]:
    """How much each nested token is chosen where, at one site."""
    square = core("evaluation.attention_maps").square
    nested = found.nested[site]
    maps = [enlarged(heat(square(nested[:, t]), float(nested.max()))) for t in range(len(nested.T))]
    half = -(-len(maps) // 2)
    return [
        Row(f"{found.prompt}: tokens 1 to {half}", (found.picture, *maps[:half])),
        Row(f"tokens {half + 1} to {len(maps)}", (found.reference, *maps[half:])),
    ]


def figures(found: Sequence[Study]) -> dict:
    """By site: how far the choice depends on the query, and the subject's share of attention."""
    spread = core("evaluation.attention_maps").spread
    result = {}
    for site in found[0].nested:
        spreads = [spread(one.nested[site], one.outer[site]) for one in found]
        shares = [float(one.outer[site].mean()) for one in found]
        result[site] = {
            "queries": len(found[0].outer[site]),
            "query_dependence": _rounded(sum(spreads) / len(spreads)),
            "outer_share": _rounded(sum(shares) / len(shares)),
        }
    return result


def _rounded(share: float) -> float:
    """To four digits; a site where the base hardly looks at the subject's word is not one at 0."""
    return float(f"{share:.4g}")


def run(painter: Painter, domains: Sequence[str], seed: int, out: Path, count: int = 4) -> dict:
    """Writes both sheets of each domain and returns the figures."""
    report = {}
    for domain in domains:
        found = studies(painter, domain, count, seed)
        by_site = figures(found)
        report[domain] = by_site
        finest = [site for site, row in by_site.items() if row["queries"] == 256]
        site = max(finest, key=lambda name: by_site[name]["query_dependence"])
        heads = ["reference, picture", *by_site]
        rows = [row for one in found for row in sites_sheet(one)]
        save(sheet(rows, heads), out / f"attention-{domain}.jpg")
        rows = [row for one in found for row in tokens_sheet(one, site)]
        save(sheet(rows), out / f"attention-{domain}-tokens.jpg")
        for name, row in by_site.items():
            log(
                f"{domain} {name}: {row['queries']} queries, choice depends on the query to "
                f"{row['query_dependence']:.2f}, subject's share {row['outer_share']:.2f}"
            )
    return {"seed": seed, "sampling": vars(painter.how), "sites": report}
