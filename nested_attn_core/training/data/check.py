"""Looking at a whole data set before a training: what is wrong in it, and what is only odd."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..config import TrainingConfig
from .example import DataError
from .items import Facts, Item
from .source import index_of, listing, refusal

Progress = Callable[[int, int], None]
SHOWN = 10  # findings of one kind in the text; the JSON has them all
_SHAPE = 3.0  # edges this unequal lose most of the picture to the cut


@dataclass(frozen=True)
class Finding:
    """One thing about one picture or one subject.

    kind    "data set", "unreadable", "unusable", "no reference", "single", "duplicate" or "shape"
    error   whether the picture is left out of a training because of it
    """

    kind: str
    error: bool
    origin: str
    text: str


@dataclass(frozen=True)
class Report:
    """What was found. `usable` pictures of `subjects` would be trained on, out of `pictures`."""

    pictures: int
    usable: int
    subjects: int
    masks: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(finding.error for finding in self.findings)

    @property
    def exit_code(self) -> Literal[0, 1]:
        """1 where something is wrong or nothing is left to train on."""
        return 1 if self.errors or not self.usable else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with every finding."""
        return {**asdict(self), "errors": self.errors, "warnings": len(self.findings) - self.errors}

    def to_text(self) -> str:
        """For a person: the counts, then the first findings of each kind."""
        lines = [
            f"{self.usable} of {self.pictures} pictures can be trained on; "
            f"{self.subjects} subjects, {self.masks} masks."
        ]
        kinds = dict.fromkeys((f.error, f.kind) for f in self.findings)
        for error, kind in sorted(kinds, reverse=True):
            same = [f for f in self.findings if (f.error, f.kind) == (error, kind)]
            lines.append("")
            lines.append(f"{'Error' if error else 'Warning'}, {kind}: {len(same)}")
            lines += [f"  {finding.origin}: {finding.text}" for finding in same[:SHOWN]]
            if len(same) > SHOWN:
                lines.append(f"  and {len(same) - SHOWN} more")
        lines.append("")
        lines.append(self._verdict())
        return "\n".join(lines)

    def _verdict(self) -> str:
        if not self.usable:
            return "Nothing can be trained on."
        if self.errors:
            return f"{self.errors} errors: a training would leave these pictures out."
        return "Nothing is wrong." if not self.findings else "Nothing is wrong; see the warnings."


def check(config: TrainingConfig, progress: Progress | None = None) -> Report:
    """Reads every picture and mask in full. A data set that is not there is a finding as well."""
    where = config.data.path
    try:
        found = listing(config)
    except DataError as error:
        return Report(0, 0, 0, 0, [Finding("data set", True, where, str(error))])
    findings = [Finding("data set", True, where, problem) for problem in found.problems]
    if not found.items and not found.problems:
        text = "there is no picture; set data.path to the data set."
        findings.append(Finding("data set", True, where, text))
    facts = index_of(config.data).facts(found.items, config.data.threads, progress)
    good: list[tuple[Item, Facts]] = []
    for item, known in zip(found.items, facts, strict=True):
        reason = refusal(item, known, config)
        if reason is None and isinstance(known, Facts):
            good.append((item, known))
        else:
            kind = "unreadable" if isinstance(known, DataError) else "unusable"
            findings.append(Finding(kind, True, item.origin, f"{reason}."))
    lonely = _lonely(good, config)
    lost = {finding.origin for finding in lonely if finding.error}
    kept = [item for item, _ in good if item.identity not in lost]
    return Report(
        pictures=len(found.items),
        usable=len(kept),
        subjects=len({item.identity for item in kept}),
        masks=sum(item.has_mask for item in kept),
        findings=[*findings, *lonely, *_twins(good), *_long(good, config)],
    )


def _lonely(good: Sequence[tuple[Item, Facts]], config: TrainingConfig) -> list[Finding]:
    """Subjects that cannot give a reference beside the target."""
    targets = Counter(item.identity for item, _ in good)
    references = Counter(item.identity for item, _ in good if item.reference)
    never = config.data.augment == "never"
    meant = config.data.identity == "picture" and not never
    findings = []
    for who, count in targets.items():
        if references[who] == 0:
            text = "no picture shows the subject alone, so that there is no reference; add one."
            findings.append(Finding("no reference", True, str(who), text))
        elif count == 1 and not meant:
            text = "the subject has one picture; " + (
                'add another, or set data.augment to "single".'
                if never
                else "its reference is an augmented copy of it, and more pictures teach more."
            )
            findings.append(Finding("single", never, str(who), text))
    return findings


def _twins(good: Sequence[tuple[Item, Facts]]) -> list[Finding]:
    """The same picture twice, which lets an encoder copy instead of read."""
    by_key: dict[str, list[Item]] = defaultdict(list)
    for item, facts in good:
        by_key[facts.key].append(item)
    return [
        Finding(
            "duplicate", False, again.origin, f"the same picture as {first.origin}; remove one."
        )
        for first, *others in by_key.values()
        for again in others
    ]


def _long(good: Sequence[tuple[Item, Facts]], config: TrainingConfig) -> list[Finding]:
    if config.data.buckets or config.data.fit == "pad":
        return []
    return [
        Finding(
            "shape",
            False,
            item.origin,
            f"{facts.size[0]} x {facts.size[1]} pixels, of which the cut leaves less than "
            f"{math.ceil(100 / _SHAPE)} %; set data.buckets, or cut it yourself.",
        )
        for item, facts in good
        if max(facts.size) > _SHAPE * min(facts.size)
    ]
