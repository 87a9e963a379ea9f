"""Where subjects' words look while an image is made, and what they draw on, on a small grid.

What is kept does not grow with the number of steps or with the size of the image: sums by subject,
part of the sampling and group of layers, for the first images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import SiteSubject
from .evaluation.attention_maps import nested_probabilities
from .masks import axis_coverage

PERIODS = ("early", "middle", "late")


@dataclass(frozen=True)
class Frame:
    """What one row of a model call shows: rows `ys` and columns `xs` of image `image` of a latent
    of `latent` (height, width)."""

    ys: tuple[int, ...]
    xs: tuple[int, ...]
    image: int
    latent: tuple[int, int]


@dataclass
class _Sums:
    looked: Tensor  # (images, grid, grid)
    drawn: Tensor  # (images, grid, grid, nested tokens)
    seen: Tensor  # (images, grid, grid): how often each cell was looked from


@dataclass
class AttentionRecord:
    """Sums of attention maps.

    grid    cells along each side of a map
    images  how many images of a batch are kept
    """

    grid: int = 64
    images: int = 4
    _sums: dict[tuple[str, str, str], _Sums] = field(default_factory=dict)
    _axes: dict[tuple, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects that were seen, in the order in which they came."""
        return tuple(dict.fromkeys(name for name, _, _ in self._sums))

    @torch.no_grad()
    def add(
        self,
        where: tuple[str, str],
        names: Sequence[str],
        query: Tensor,
        key: Tensor,
        subjects: Sequence[SiteSubject],
        heads: int,
        frames: Sequence[Frame],
        size: tuple[int, int],
    ) -> None:
        """Adds one call of one site.

        where     part of the sampling and group of layers
        query     (B, N, heads * d) of a feature map of `size`, N = height * width
        key       (B, T, heads * d)
        frames    one for each row of the batch
        """
        shares = outer_shares(query, key, subjects, heads)
        for name, subject, share in zip(names, subjects, shares, strict=True):
            for row in (subject.positions >= 0).any(1).nonzero().flatten().tolist():
                if frames[row].image < self.images:
                    nested = nested_probabilities(
                        query[row : row + 1], _row(subject.key, row), heads
                    )[0]
                    if subject.mask is not None:
                        mask = subject.mask if len(subject.mask) == 1 else subject.mask[[row]]
                        nested = nested * mask.to(nested)[0, :, None]
                    drawn = share[row][:, None] * nested
                    self._put((name, *where), share[row], drawn, frames[row], size)

    def maps(
        self, name: str, periods: Iterable[str], groups: Iterable[str]
    ) -> tuple[Tensor, Tensor] | None:
        """Of one subject: the share of attention that its word gets (images, grid, grid), 0 to 1,
        and how much each nested token has of it, (images, grid, grid, tokens); means over calls,
        on the CPU. None where nothing was seen. Cells that no row showed are 0."""
        periods, groups = set(periods), set(groups)
        found = [
            sums
            for (of, period, group), sums in self._sums.items()
            if of == name and period in periods and group in groups
        ]
        if not found:
            return None
        seen = sum(s.seen for s in found).clamp_min(1e-9)  # type: ignore[union-attr]
        looked: Tensor = sum(s.looked for s in found) / seen  # type: ignore[assignment]
        drawn: Tensor = sum(s.drawn for s in found) / seen[..., None]  # type: ignore[assignment]
        return looked.cpu(), drawn.cpu()

    def _put(
        self,
        key: tuple[str, str, str],
        share: Tensor,
        drawn: Tensor,
        frame: Frame,
        size: tuple[int, int],
    ) -> None:
        down = self._axis(frame.ys, frame.latent[0], size[0], share.device)
        across = self._axis(frame.xs, frame.latent[1], size[1], share.device)
        if key not in self._sums:
            shape = (self.images, self.grid, self.grid)
            self._sums[key] = _Sums(
                share.new_zeros(shape),
                share.new_zeros(*shape, drawn.shape[1]),
                share.new_zeros(shape),
            )
        sums = self._sums[key]
        sums.looked[frame.image] += down @ share.reshape(size) @ across.T
        sums.drawn[frame.image] += torch.einsum(
            "ah,hwn,bw->abn", down, drawn.reshape(*size, -1), across
        )
        sums.seen[frame.image] += down.sum(1)[:, None] * across.sum(1)

    def _axis(
        self, lines: tuple[int, ...], latent: int, cells: int, device: torch.device
    ) -> Tensor:
        """How much of each grid cell each cell of a feature map is, (grid, cells)."""
        name = (lines, latent, cells, device)
        if name not in self._axes:
            step = 1
            while -(-len(lines) // step) > cells:
                step *= 2
            shown = torch.zeros(latent, cells, dtype=torch.float64)
            for place, line in enumerate(lines):
                shown[line, min(place // step, cells - 1)] = 1
            self._axes[name] = (axis_coverage(latent, self.grid) @ shown).float().to(device)
        return self._axes[name]


def outer_shares(
    query: Tensor, key: Tensor, subjects: Sequence[SiteSubject], heads: int
) -> list[Tensor]:
    """The share of the outer attention that each subject's tokens get, token weights and masks of
    all subjects included; mean over heads. query (B, N, inner), key (B, T, inner) -> (B, N) each.
    """
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
    logits = q @ k.mT * q.shape[-1] ** -0.5
    rows = torch.arange(key.shape[1])
    claimed = []
    for subject in subjects:
        here = (subject.positions.cpu()[:, :, None] == rows).any(1).to(query.device)
        claimed.append(here)
        odds = here[:, None, :].float() * torch.tensor(subject.token_weight).log()
        if subject.mask is not None:
            odds = odds * subject.mask.to(odds)[:, :, None]
        logits = logits + odds[:, None]
    share = logits.softmax(-1)
    return [(share * here[:, None, None]).sum(-1).mean(1) for here in claimed]


def _row(tensor: Tensor, row: int) -> Tensor:
    return tensor if len(tensor) == 1 else tensor[row : row + 1]
