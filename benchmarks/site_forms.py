"""Four ways to give a subject to one cross-attention site, written from their definitions.

plain             the host's attention and no subject
ours              the pack's patch, as it sits on a site of a model
decoupled_cached  decoupled cross-attention as IP-Adapter does it: a second attention to the image
                  tokens for every row of the batch, added to the first; keys and values given
decoupled         the same with its two projections in every call
value_tensor      nested attention as its definition says: a value tensor for each query
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pack

CONTEXT = 77
FIRST_TOKEN = 5
FACTOR, WEIGHT = 2.0, 16.0


@dataclass(frozen=True)
class Shape:
    """A cross-attention of a base; `context` is the width of its text context."""

    base: str
    queries: int
    width: int
    heads: int
    context: int


SHAPES = (
    Shape("SDXL, 1024 px", 4096, 640, 10, 2048),
    Shape("SDXL, 1024 px", 1024, 1280, 20, 2048),
    Shape("SD1.5, 512 px", 4096, 320, 8, 768),
    Shape("SD1.5, 512 px", 1024, 640, 8, 768),
    Shape("SD1.5, 512 px", 256, 1280, 8, 768),
    Shape("SD1.5, 512 px", 64, 1280, 8, 768),
)


class SiteForms:
    """The forms at one site, for subjects of the shipped encoders' settings, on random tensors.

    The last of `rows` rows has all subjects, as the positive row of a step with guidance has.
    """

    def __init__(
        self,
        shape: Shape,
        tokens: int,
        subjects: int,
        rows: int,
        dtype: Any,
        device: str,
        threshold: float = 0.0,
    ):
        import torch

        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Any:
            return torch.randn(*size, generator=generator).to(device, dtype)

        self.shape, self.rows, self.tokens = shape, rows, tokens
        self.query = draw(rows, shape.queries, shape.width)
        self.key, self.value = (draw(rows, CONTEXT, shape.width) for _ in range(2))
        self.nested = [
            (draw(1, tokens, shape.width), draw(1, tokens, shape.width)) for _ in range(subjects)
        ]
        self.images = [draw(rows, tokens, shape.context) for _ in range(subjects)]
        scale = shape.context**-0.5
        self.projections = [
            tuple(draw(shape.width, shape.context) * scale for _ in range(2)) for _ in self.images
        ]
        self.cached = [self._projected(number) for number in range(subjects)]
        core = pack.module("nested_attn_core.attention")
        sites = pack.module("nested_attn_core.site_subjects")
        positions = torch.full((subjects, rows, 1), -1)
        positions[:, -1, 0] = torch.arange(FIRST_TOKEN, FIRST_TOKEN + subjects)
        self.subjects = sites.SiteSubjects.sharing(
            {},
            [
                core.SiteSubject(
                    *both, at, 1.0, core.NormControl("text", FACTOR), WEIGHT, threshold=threshold
                )
                for both, at in zip(self.nested, positions, strict=True)
            ],
        )
        patch = pack.module("nodes.host.patch")
        self.patch = patch.NestedPatch("site")
        plan = patch.NestedPlan(rows, {"site": self.subjects})
        self.options = {"n_heads": shape.heads}
        self.planned = {**self.options, patch.PLAN: plan}
        self.attention: Callable[..., Any] = importlib.import_module(
            "comfy.ldm.modules.attention"
        ).optimized_attention

    def by_name(self) -> Mapping[str, Callable[[], Any]]:
        return {
            "plain": self.plain,
            "ours": self.ours,
            "decoupled_cached": self.decoupled_cached,
            "decoupled": self.decoupled,
        }

    def plain(self) -> Any:
        return self.attention(self.query, self.key, self.value, self.shape.heads)

    def ours(self) -> Any:
        return self.patch(self.query, self.key, self.value, self.planned)

    def decoupled_cached(self) -> Any:
        out = self.plain()
        for key, value in self.cached:
            out = out + 1.0 * self.attention(self.query, key, value, self.shape.heads)
        return out

    def decoupled(self) -> Any:
        out = self.plain()
        for number in range(len(self.images)):
            key, value = self._projected(number)
            out = out + 1.0 * self.attention(self.query, key, value, self.shape.heads)
        return out

    def _projected(self, number: int) -> tuple[Any, Any]:
        to_key, to_value = self.projections[number]
        return self.images[number] @ to_key.mT, self.images[number] @ to_value.mT

    def value_tensor(self) -> Any:
        """Row by row, so that one row's tensor is held at a time; the others are plain."""
        import torch
        import torch.nn.functional as F

        out = self.plain().clone()
        q, k, v = (self._split(t[-1:]) for t in (self.query, self.key, self.value))
        logits = (q @ k.mT) * q.shape[-1] ** -0.5
        values = v[:, :, None].repeat(1, 1, q.shape[2], 1, 1)
        for token, both in enumerate(self.nested, FIRST_TOKEN):
            star = F.scaled_dot_product_attention(q, *(self._split(t) for t in both))
            length = star.float().square().sum((1, 3), keepdim=True).sqrt().to(star.dtype)
            star = star * (FACTOR * self.value[-1, token].norm() / length)
            values[:, :, :, token] = star
            logits[..., token] += math.log(WEIGHT)
        mixed = (logits.softmax(-1)[..., None, :] @ values).squeeze(-2)
        out[-1:] = mixed.transpose(1, 2).flatten(2)
        return torch.as_tensor(out)

    def value_tensor_bytes(self) -> int:
        """What the tensor of one row holds."""
        return self.shape.queries * CONTEXT * self.shape.width * self.query.element_size()

    def _split(self, tensor: Any) -> Any:
        return tensor.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2)

    def put_subject_on(self, area: float) -> None:
        """Lets the first `area` of the queries look at the subject's token, and few others."""
        scale = self.query.shape[-1] // self.shape.heads
        at = self._heads(self.key[:, FIRST_TOKEN][:, None])
        q = self._heads(self.query)
        along = (q * at).sum(-1, keepdim=True) / (at * at).sum(-1, keepdim=True)
        wanted = q.new_full((1, self.shape.queries, 1, 1), -8.0)
        wanted[:, : round(area * self.shape.queries)] = 4.0
        length = (at * at).sum(-1, keepdim=True)
        self.query = (q + (wanted * scale**0.5 / length - along) * at).flatten(2)

    def _heads(self, tensor: Any) -> Any:
        return tensor.unflatten(-1, (self.shape.heads, -1))
