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

BACKGROUND = -1

# query (1, n, width), key and value (1, m, width) -> (1, n, width)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def regions(claims: Tensor, least: float) -> Tensor:
    """Whose region each place is in, (B, h, w) int64, BACKGROUND for nobody's.

    claims (S, B, h, w) of at least 0. A place is in the region of the subject whose claim there is
    the largest, where it is no less than `least` times that subject's largest claim anywhere in
    the row.
    """
    claim, owner = claims.max(0)
    largest = claims.amax((-2, -1))  # (S, B)
    needed = least * largest.T.gather(1, owner.flatten(1)).view_as(claim)
    return owner.masked_fill((claim <= 0) | (claim < needed), BACKGROUND)


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
    labels   (B, N) int64, as `regions` gives them
    attend   plain attention; it is called for one region at a time, with the keys that it may see
    replace  base is plain attention, and is replaced in the regions; otherwise the difference that
             the bounds make to plain attention is added, so that what base has beside it stays
    returns  base's shape and dtype; `base` itself if nothing is bounded. Queries of the background
             and all other rows come back bit for bit.
    """
    # Read once; the numbers of queries in a region are needed on the CPU in any case.
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
