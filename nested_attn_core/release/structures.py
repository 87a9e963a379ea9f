"""Cross-attention layouts of base families, in diffusers' order and in the host's names.

diffusers numbers its attention processors down, up, mid; the host names the same places input,
output, middle (both follow from the block layouts of the UNets).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..projections import BLOCKS, Site

_PATH = re.compile(
    r"(?:(?P<side>down|up)_blocks[._-](?P<block>\d+)|mid_block)[._-]attentions[._-](?P<attention>\d+)"
    r"[._-]transformer_blocks[._-](?P<index>\d+)[._-]attn2(?![0-9])"
)


@dataclass(frozen=True)
class Stage:
    """Attentions of one diffusers block: `count` of them, each `depth` transformers, of `factor`
    times the model's smallest attention width."""

    side: str
    block: int
    count: int
    depth: int
    factor: int


@dataclass(frozen=True)
class Structure:
    """All cross-attentions of a base family, in diffusers' order."""

    family: str
    stages: tuple[Stage, ...]

    def places(self) -> Iterator[tuple[str, int, int, int]]:
        """(block, number, index) in the host's names and the width factor, in diffusers' order."""
        for stage in self.stages:
            for attention in range(stage.count):
                block, number = _host_block(stage.side, stage.block, attention)
                for index in range(stage.depth):
                    yield block, number, index, stage.factor

    def __len__(self) -> int:
        return sum(stage.count * stage.depth for stage in self.stages)

    def sites(self, widths: Sequence[int]) -> tuple[Site, ...] | None:
        """The sites of these widths, both in diffusers' order; None if the widths do not fit."""
        if len(widths) != len(self):
            return None
        unit = min(widths)
        places = tuple(self.places())
        if any(width != unit * place[3] for width, place in zip(widths, places, strict=True)):
            return None
        return tuple(Site(*place[:3], width) for width, place in zip(widths, places, strict=True))


STRUCTURES = (
    Structure(
        "sdxl",
        (
            Stage("down", 1, 2, 2, 1),
            Stage("down", 2, 2, 10, 2),
            Stage("up", 0, 3, 10, 2),
            Stage("up", 1, 3, 2, 1),
            Stage("mid", 0, 1, 10, 2),
        ),
    ),
    Structure(
        "sd15",
        (
            Stage("down", 0, 2, 1, 1),
            Stage("down", 1, 2, 1, 2),
            Stage("down", 2, 2, 1, 4),
            Stage("up", 1, 3, 1, 4),
            Stage("up", 2, 3, 1, 2),
            Stage("up", 3, 3, 1, 1),
            Stage("mid", 0, 1, 1, 4),
        ),
    ),
)


def known_counts() -> str:
    """For messages: "70 (sdxl) or 16 (sd15)"."""
    return " or ".join(f"{len(structure)} ({structure.family})" for structure in STRUCTURES)


def in_host_order(sites: Sequence[Site]) -> tuple[Site, ...]:
    """As the host runs them: input, middle, output."""
    return tuple(
        sorted(sites, key=lambda site: (BLOCKS.index(site.block), site.number, site.index))
    )


def find_path(name: str) -> re.Match[str] | None:
    """A diffusers path of a cross-attention inside a tensor's name ("down_blocks.1.attentions.0.
    transformer_blocks.0.attn2"; also with "_" for each dot, as in a ModuleDict)."""
    return _PATH.search(name)


def place_of_path(path: re.Match[str]) -> tuple[str, int, int]:
    """(block, number, index) in the host's names."""
    side = path["side"] or "mid"
    block, number = _host_block(side, int(path["block"] or 0), int(path["attention"]))
    return block, number, int(path["index"])


def _host_block(side: str, block: int, attention: int) -> tuple[str, int]:
    # Per resolution, the host has two input blocks and a downsampler, and three output blocks;
    # input block 0 is the first convolution.
    if side == "down":
        return "input", 1 + 3 * block + attention
    if side == "up":
        return "output", 3 * block + attention
    return "middle", attention
