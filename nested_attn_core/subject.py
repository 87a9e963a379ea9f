"""A subject: what an encoder made of its images, and how it takes part in a generation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .attention import NormControl
from .errors import NestedAttentionError
from .fingerprint import content_fingerprint
from .layers import LayerWeights
from .masks import product
from .placeholders import fold_name, is_name


@dataclass(frozen=True, eq=False)
class Subject:
    """One subject. Immutable; change it with dataclasses.replace.

    name                what prompts call it, without angle brackets
    tokens              nested tokens (n, token_dim), floating, on the CPU
    class_word          what the text encoders read for it ("person")
    domain              what the encoder was trained on ("person", "kitten")
    encoder             the host layer's handle of the encoder that made the tokens
    encoder_fingerprint of that encoder's weights
    strength            0 = off, 1 = as trained
    start_percent, end_percent   part of the sampling in which it acts, 0 to 1
    mask                (H, W) or (frames, H, W), 0 to 1, at any size; None = everywhere
    norm, token_weight  see attention.SiteSubject
    placeholder         text stream ("l", "g") -> embedding (width,) that is read in place of the
                        class word's own; empty for the class word's
    layers              what multiplies the strength in groups of layers

    Raises NestedAttentionError for anything else.
    """

    name: str
    tokens: Tensor
    class_word: str
    domain: str
    encoder: Any = field(repr=False)
    encoder_fingerprint: str
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: Tensor | None = None
    norm: NormControl = NormControl()
    token_weight: float = 1.0
    placeholder: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    layers: LayerWeights = LayerWeights()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise NestedAttentionError(
                f'"{self.name}" cannot be a subject\'s name; use letters, digits, "_" and "-" '
                "only, for example anna."
            )
        if not self.class_word.strip():
            raise NestedAttentionError(
                f"The subject <{self.name}> has no class word; give one, for example person."
            )
        self._check_numbers()
        self._check_tensors()

    def _check_numbers(self) -> None:
        if not math.isfinite(self.strength):
            raise NestedAttentionError(
                f"The strength of <{self.name}> is {self.strength}; give a finite number."
            )
        if not (math.isfinite(self.token_weight) and self.token_weight > 0):
            raise NestedAttentionError(
                f"The token weight of <{self.name}> is {self.token_weight}; give a finite "
                "number above 0."
            )
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise NestedAttentionError(
                f"<{self.name}> is to act from {self.start_percent} to {self.end_percent}; give "
                "a start and an end between 0 and 1, the start first."
            )

    def _check_tensors(self) -> None:
        tokens, mask = self.tokens, self.mask
        if tokens.ndim != 2 or 0 in tokens.shape or not tokens.is_floating_point():
            raise NestedAttentionError(
                f"The nested tokens of <{self.name}> are {tokens.dtype} of shape "
                f"{tuple(tokens.shape)}; floating numbers (tokens, width) are needed."
            )
        if not bool(torch.isfinite(tokens).all()):
            raise NestedAttentionError(
                f"The nested tokens of <{self.name}> hold NaN or infinite numbers; check its "
                "images and the encoder's file."
            )
        if any(v.ndim != 1 or not bool(torch.isfinite(v).all()) for v in self.placeholder.values()):
            raise NestedAttentionError(
                f"The placeholder of <{self.name}> is not a finite vector for each text stream; "
                "check the encoder's file."
            )
        if mask is not None and (mask.ndim not in (2, 3) or 0 in mask.shape):
            raise NestedAttentionError(
                f"The mask of <{self.name}> has shape {tuple(mask.shape)}; (height, width) or "
                "(frames, height, width) is needed."
            )
        if mask is not None and not bool(torch.isfinite(mask).all()):
            raise NestedAttentionError(
                f"The mask of <{self.name}> holds NaN or infinite numbers; give numbers "
                "between 0 and 1."
            )

    @cached_property
    def tokens_fingerprint(self) -> str:
        """Of what nested keys and values are made from: the tokens and their encoder."""
        return content_fingerprint([self.encoder_fingerprint, self.tokens])

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that can change an image."""
        return content_fingerprint(
            [
                self.tokens_fingerprint,
                fold_name(self.name),
                self.class_word,
                self.domain,
                self.strength,
                self.start_percent,
                self.end_percent,
                self.mask,
                self.norm,
                self.token_weight,
                *(part for pair in sorted(self.placeholder.items()) for part in pair),
                self.layers,
            ]
        )

    def adjusted(
        self,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        mask: Tensor | None = None,
        token_weight: float = 1.0,
        layers: LayerWeights = LayerWeights(),  # noqa: B008 (frozen)
        norm: NormControl | None = None,
    ) -> Subject:
        """The subject with settings on top of its own: strength, weights and masks multiply, and
        it acts in the steps that both ranges hold. `norm` None keeps the subject's."""
        # Checked by themselves first, so that a message shows the numbers that were given.
        replace(self, start_percent=start_percent, end_percent=end_percent, mask=mask)
        start = max(self.start_percent, start_percent)
        return replace(
            self,
            strength=self.strength * strength,
            start_percent=start,
            end_percent=max(start, min(self.end_percent, end_percent)),
            mask=product(self.mask, mask),
            token_weight=self.token_weight * token_weight,
            layers=self.layers.times(layers),
            norm=self.norm if norm is None else norm,
        )

    def joined(self, other: Subject) -> Subject:
        """The subject with the tokens of more images of it, encoded by the same encoder.

        Raises NestedAttentionError for another encoder.
        """
        if other.encoder_fingerprint != self.encoder_fingerprint:
            raise NestedAttentionError(
                f"The images of <{self.name}> were read by different encoders; encode all images "
                "of one subject by the same encoder."
            )
        return replace(self, tokens=torch.cat([other.tokens.to(self.tokens), self.tokens]))


@dataclass(frozen=True, eq=False)
class Subjects:
    """Subjects in order. Raises NestedAttentionError if two share a name."""

    items: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for subject in self.items:
            folded = fold_name(subject.name)
            if folded in seen:
                raise NestedAttentionError(
                    f"Two subjects are called <{seen[folded]}>; give each subject its own name "
                    "(upper and lower case count as the same)."
                )
            seen[folded] = subject.name

    @classmethod
    def of(cls, *parts: Subject | Subjects) -> Subjects:
        """Joins single subjects and sets of them, in order."""
        return cls(
            tuple(
                subject
                for part in parts
                for subject in (part.items if isinstance(part, Subjects) else (part,))
            )
        )

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Subject:
        return self.items[index]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(subject.name for subject in self.items)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that can change an image, order included."""
        return content_fingerprint(subject.fingerprint for subject in self.items)
