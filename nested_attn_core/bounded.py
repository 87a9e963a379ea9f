"""Self-attention that stays within a subject's region and the background.

Features also pass from one subject to another through self-attention. Where the regions of the
subjects are known, a query in the region of one does not look at the regions of the others
(the idea of Bounded Attention, arXiv 2403.16990, Sec. 4); the background sees all and is seen by
all:

    out(q) = softmax over t in R_i or background of (q k_t / sqrt d)  v_t         for q in R_i
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .assignment import relative

BACKGROUND = -1

# query (1, n, width), key and value (1, m, width) -> (1, n, width)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def regions(maps: Tensor, least: float) -> Tensor:
    """Whose region each place is in, (B, h, w) int64, BACKGROUND for nobody's.

    maps (S, B, h, w) of at least 0. A place is in the region of the subject with the largest claim
    to it, if it is looked at enough: at least `least` of the way from the smallest to the largest
    value of that subject's map. A flat map has no region.
    """
    flat = maps.flatten(2)
    owner = relative(flat).argmax(0, keepdim=True)
    low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    inside = (flat > low) & (flat >= low + least * (high - low))
    owner = owner.masked_fill(~inside.gather(0, owner), BACKGROUND)
    return owner[0].view_as(maps[0])


def bounded_attention(
    base: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    labels: Tensor,
    attend: Attention,
    replace: bool,
) -> Tensor:
    """Bounds the self-attention of those rows that have two regions at least.

    base     (B, N, width), what self-attention gave without bounds; it may have been made by
             another pack
    query, key, value   (B, N, width)
    labels   (B, N) int64, as `regions` gives them; best on the CPU
    attend   plain attention; it is called for one region at a time, with the keys that it may see
    replace  base is plain attention, and is replaced in the regions; otherwise the difference that
             the bounds make to plain attention is added, so that what base has beside it stays
    returns  base's shape and dtype; `base` itself if nothing is bounded. Queries of the background
             and all other rows come back bit for bit.
    """
    found = labels.cpu()
    out = base
    for row, places in enumerate(found):
        numbers = places[places != BACKGROUND].unique().tolist()
        if len(numbers) < 2:
            continue
        out = base.clone() if out is base else out
        for number in numbers:
            own = (places == number).nonzero().flatten().to(query.device)
            seen = (places == number) | (places == BACKGROUND)
            seen = seen.nonzero().flatten().to(query.device)
            q = query[row, own][None]
            inner = attend(q, key[row, seen][None], value[row, seen][None])
            if not replace:
                inner = inner - attend(q, key[row][None], value[row][None]) + base[row, own][None]
            out[row, own] = inner[0].to(out.dtype)
    return out
