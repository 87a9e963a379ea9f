"""Attention in fp32 where a training's CPU would do it in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attend_in_fp32(attend: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
    """attend(query, key, value, ...), the first three in fp32 or wider and outside autocast, back
    in the query's dtype: CPUs take several times as long for its gradients in halves. On another
    device it is attend's own result."""
    if inputs[0].device.type != "cpu":
        return attend(*inputs, **options)
    with torch.autocast("cpu", enabled=False):
        wide = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in inputs[:3]]
        return attend(*wide, *inputs[3:], **options).to(inputs[0].dtype)
