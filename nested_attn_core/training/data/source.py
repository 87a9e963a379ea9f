"""A data set that can be trained on: what its listing holds, without what cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import DataSection, TrainingConfig
from .captions import canonical_caption
from .drawn import list_drawn
from .example import DataError, Example
from .folder import list_folder
from .index import ContentIndex
from .items import Facts, Item, Listing
from .jsonl import list_jsonl
from .shards import list_shards

INDEX = "pictures.json"


@dataclass(frozen=True)
class Pictures:
    """A Source over items that are known to be good."""

    items: Sequence[Item]
    captions: Sequence[str]
    facts: Sequence[Facts]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Example:
        item = self.items[row]
        key, size = self.facts[row]
        return Example(
            key=key,
            caption=self.captions[row],
            identity=item.identity or item.origin,
            size=size,
            origin=item.origin,
            image=item.image,
            mask=item.mask if item.has_mask else None,
            reference=item.reference,
        )


def listing(config: TrainingConfig) -> Listing:
    """Everything that the data set lists; raises DataError where there is no such data set."""
    data = config.data
    if data.source == "folder":
        return list_folder(Path(data.path), data.identity)
    if data.source == "jsonl":
        return list_jsonl(Path(data.path), data.identity)
    if data.source == "webdataset":
        return list_shards(data.path, data.identity)
    return list_drawn(Path(data.path), config.output.domain)


def index_of(data: DataSection) -> ContentIndex:
    """The index beside the cached features."""
    return ContentIndex(Path(data.cache_folder) / INDEX)


def refusal(item: Item, facts: Facts | DataError, config: TrainingConfig) -> str | None:
    """Why an item cannot be trained on, as the end of a sentence; None where it can."""
    if isinstance(facts, DataError):
        return str(facts).removeprefix(f"{item.origin} ").rstrip(".")
    if min(facts.size) < config.data.smallest:
        width, height = facts.size
        return (
            f"the picture has {width} x {height} pixels, and data.smallest asks for at least "
            f"{config.data.smallest} at the shorter edge; replace or remove it"
        )
    if item.identity is None:
        return (
            "nothing says who the subject is; put it into a folder named after the subject, give "
            'it a field "identity", or set data.identity'
        )
    caption = item.caption or config.data.caption
    if not caption:
        return "there is no caption; write one, or set data.caption for all that have none"
    try:
        canonical_caption(caption, config.class_word)
    except DataError as error:
        return str(error)
    return None


def open_source(
    config: TrainingConfig, progress: Callable[[int, int], None] | None = None
) -> tuple[Pictures, list[str]]:
    """The usable pictures, and a sentence for each that is left out.

    progress(done, total) is called while pictures are looked at for the first time. Raises
    DataError where nothing usable is left. With several processes, let one call it first.
    """
    found = listing(config)
    facts = index_of(config.data).facts(found.items, config.data.threads, progress)
    good, problems = [], list(found.problems)
    for item, known in zip(found.items, facts, strict=True):
        reason = refusal(item, known, config)
        if reason is None and isinstance(known, Facts):
            text = canonical_caption(item.caption or config.data.caption, config.class_word)
            good.append((item, text, known))
        else:
            problems.append(f"{item.origin}: {reason}.")
    if not good:
        first = f" The first: {problems[0]}" if problems else ""
        raise DataError(
            f"No picture in {config.data.path} can be trained on; run the training with --check "
            f"for a report.{first}"
        )
    items, captions, known = zip(*good, strict=True)
    return Pictures(items, captions, known), problems
