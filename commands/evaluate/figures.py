"""From units to figures with intervals: the keys of these reports are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.common import core

from .exam import Exam
from .units import Unit


@dataclass(frozen=True)
class Answers:
    """A method's unit of a domain beside the base's, and whose pictures they are."""

    unit: Unit
    base: Unit
    who: Tensor

    @property
    def seen(self) -> Tensor:
        """Pictures whose identity can be read."""
        return ~self.unit.identity.isnan()


def point(parts: Sequence[Answers], strength: float, seed: int) -> dict:
    """A place on a method's curve, from its domains: every picture counts the same, and pictures
    of one subject are resampled together."""
    measures = core("evaluation.measures")
    who = torch.cat([part.who + 100_000 * number for number, part in enumerate(parts)])
    seen = torch.cat([part.seen for part in parts])
    identity, hit = (
        torch.cat([getattr(part.unit, name) for part in parts])[seen]
        for name in ("identity", "hit")
    )
    right, below = (torch.cat([u.right for u in units]) for units in _units(parts))
    drawn = [part.unit.diversity.sum() for part in parts if len(part.unit.diversity)]
    by_base = [part.base.diversity.sum() for part in parts if len(part.unit.diversity)]
    made = {
        "strength": strength,
        "identity": rounded(identity.mean()),
        "identity_ci": measures.bootstrap_interval(identity, seed, who[seen]),
        "prompt_relative": rounded(right.sum() / below.sum().clamp_min(1e-9)),
        "prompt_relative_ci": measures.bootstrap_ratio_interval(right, below, seed, who),
        "retrieval_at_1": rounded(hit.mean()),
        "retrieval_at_1_ci": measures.bootstrap_interval(hit, seed, who[seen]),
        "seconds": round(sum(part.unit.seconds for part in parts), 1),
    }
    if drawn:
        made["diversity_relative"] = rounded(sum(drawn) / sum(by_base))
    return made


def _units(parts: Sequence[Answers]) -> tuple[list[Unit], list[Unit]]:
    return [part.unit for part in parts], [part.base for part in parts]


def domain(answers: Answers, real: Unit, exam: Exam, seed: int) -> dict:
    """A domain's figures at one strength, with what real pictures of the same captions and the base
    alone score."""
    unit, base = answers.unit, answers.base
    intervals = point([answers], 0.0, seed)
    questions = unit.of.sum()
    return {
        **{key: value for key, value in intervals.items() if key not in ("strength", "seconds")},
        "gallery": exam.size.gallery,
        "pictures": len(exam.cases),
        "identity_pictures": int(answers.seen.sum()),
        "identity_real": rounded(real.identity.nanmean()),
        "identity_without": rounded(base.identity.nanmean()),
        "retrieval_at_1_real": rounded(real.hit.nanmean()),
        "retrieval_at_1_without": rounded(base.hit.nanmean()),
        "prompt": rounded(unit.right.sum() / questions),
        "prompt_base": rounded(base.right.sum() / questions),
        "prompt_real": rounded(real.right.sum() / questions),
        "diversity": rounded(unit.diversity.mean()),
        "diversity_base": rounded(base.diversity.mean()),
    }


def rounded(value: Tensor | float) -> float:
    return round(float(value), 4)
