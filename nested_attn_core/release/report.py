"""Which tensor of a file went where, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ..projections import Site
from .reading import Reading, Source

_HALVES = {None: "", 0: " (upper half)", 1: " (lower half)"}


def summary(name: str, reading: Reading) -> str:
    """A dozen lines: sizes, the resampler, and first and last tensors of each block."""
    return "\n".join([f'"{name}" was read by its structure:', *_lines(reading)])


def table(reading: Reading) -> str:
    """One line for each tensor of ours: its name, "<-", and where it lies in the file."""
    width = max(map(len, reading.sources))
    return "\n".join(
        f"{name:<{width}}  <-  {_place(source)}" for name, source in reading.sources.items()
    )


def _lines(reading: Reading) -> Iterator[str]:
    c = reading.config
    assumed = f" (assumed: {', '.join(reading.assumed)})" if reading.assumed else ""
    yield (
        f"  base family {reading.family}: {len(c.sites)} cross-attentions; {c.tokens} tokens of "
        f"width {c.token_dim} from features of width {c.feature_dim}"
    )
    yield (
        f"  resampler, {c.depth} layers of width {c.width}, {c.heads} heads of {c.head_dim}"
        f"{assumed}, feed-forward x {c.ff_mult}: {_place(reading.sources['resampler.queries'])}, "
        "..."
    )
    for (block, number), found in groupby(c.sites, lambda site: (site.block, site.number)):
        sites = list(found)
        first, last = reading.sources[_key(sites[0])], reading.sources[_key(sites[-1])]
        to = f" to {_place(last)}" if last != first else ""
        yield f"  {block}.{number}, {len(sites)} of width {sites[0].width}: {_place(first)}{to}"
    for what, count in reading.aside.items():
        yield f"  left aside: {count} tensors of {what}"


def _key(site: Site) -> str:
    return f"projections.{site.name}.to_k.weight"


def _place(source: Source) -> str:
    return source.name + _HALVES[source.part]
