"""What a subject costs at one cross-attention site, beside what others cost there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from interleaved import compare, ratio
from site_forms import SHAPES, Shape, SiteForms

import pack

TOKENS, SUBJECTS = (16, 64, 256, 1024), (1, 2, 4)
LIMIT = 3 << 30
THRESHOLDS = (0.0, 1e-3, 1e-2)


def waiter(device: str) -> Any:
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else None


def sites(quick: bool, device: str, dtype: Any, seconds: float) -> Iterator[dict[str, Any]]:
    """One row for each shape, token count, number of subjects and number of rows."""
    for shape in SHAPES[1:5:3] if quick else SHAPES:
        for tokens in (64, 1024) if quick else TOKENS:
            for rows, subjects in ((2, 1), (1, 1), (2, 2), (2, 4)):
                yield _site(shape, tokens, subjects, rows, device, dtype, seconds)


def _site(
    shape: Shape, tokens: int, subjects: int, rows: int, device: str, dtype: Any, seconds: float
) -> dict[str, Any]:
    import torch

    forms = SiteForms(shape, tokens, subjects, rows, dtype, device)
    timed = dict(forms.by_name())
    # The tensor itself costs most, whatever the rest: once a shape and token count is enough.
    if subjects == 1 and rows == 2 and forms.value_tensor_bytes() <= LIMIT:
        difference = (forms.ours() - forms.value_tensor()).abs().max()
        if dtype == torch.float32 and difference > 1e-4:
            raise SystemExit(f"Ours and the value tensor differ by {float(difference)}.")
        timed["value_tensor"] = forms.value_tensor
    found = compare(timed, seconds, wait=waiter(device))
    made = {
        "base": shape.base,
        "queries": shape.queries,
        "width": shape.width,
        "heads": shape.heads,
        "rows": rows,
        "tokens": tokens,
        "subjects": subjects,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "rounds": len(found["plain"].wall),
        "noise": round(statistics.median(each.spread for each in found.values()), 3),
        "value_tensor": None,
    }
    made |= {name: round(each.milliseconds, 3) for name, each in found.items()}
    made["wall"] = {name: round(each.wall_milliseconds, 3) for name, each in found.items()}
    made["ratios"] = {
        other: round(ratio(found, "ours", other), 3) for other in found if other != "ours"
    }
    return made


def sparse(device: str, dtype: Any, seconds: float) -> Iterator[dict[str, Any]]:
    """A subject that a quarter of the queries look at, with queries left out by their share."""
    shape, tokens, area = SHAPES[1], 1024, 0.25
    exact = SiteForms(shape, tokens, 1, 2, dtype, device)
    exact.put_subject_on(area)
    forms = {"decoupled_cached": exact.decoupled_cached}
    by_threshold = {}
    for threshold in THRESHOLDS:
        made = SiteForms(shape, tokens, 1, 2, dtype, device, threshold)
        made.put_subject_on(area)
        forms[str(threshold)] = made.ours
        by_threshold[threshold] = made
    found = compare(forms, seconds, wait=waiter(device))
    wanted = exact.ours()
    norm = wanted[-1].norm()
    for threshold, made in by_threshold.items():
        yield {
            "queries": shape.queries,
            "width": shape.width,
            "tokens": tokens,
            "area": area,
            "threshold": threshold,
            "ours": round(found[str(threshold)].milliseconds, 3),
            "decoupled_cached": round(found["decoupled_cached"].milliseconds, 3),
            "ratio": round(ratio(found, str(threshold), "decoupled_cached"), 3),
            "relative_error": float((made.ours() - wanted)[-1].norm() / norm),
        }


def syncs_per_site() -> int:
    """How often a site reads back from its device: 0, or the device without numbers refuses.

    Everything that lies on an accelerator in a run lies here on the "meta" device, where reading a
    number raises NotImplementedError; positions are on the CPU, as in a run.
    """
    import torch

    core = pack.module("nested_attn_core.attention")
    nested = torch.empty(1, 64, 640, device="meta")
    positions = torch.tensor([[-1], [5]])
    mask = torch.empty(1, 256, device="meta")
    queries = torch.empty(100, dtype=torch.long, device="meta")
    query, context = (torch.empty(2, n, 640, device="meta") for n in (256, 77))
    subjects = [
        core.SiteSubject(nested, nested, positions, token_weight=16.0),
        core.SiteSubject(nested, nested, positions + 1, mask=mask, queries=queries),
    ]
    core.nested_attention(query, query, context, context, subjects, 10)
    return 0
