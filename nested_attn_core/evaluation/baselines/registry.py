"""Every method of the comparison by its name, nested attention first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...attention import NormControl
from ...encoder import EncoderConfig, NestedEncoder
from ...errors import NestedAttentionError
from ...training.methods import Method, NestedMethod
from .appended_tokens import AppendedTokens
from .decoupled import Decoupled
from .key_too import NestedKeyToo
from .single_token import SingleToken
from .sizes import nested_budget

SiteWeights = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """What all methods share.

    config        sizes of the nested encoder, whose number of parameters all of them meet
    norm          norm control, where a method has any
    token_weight  what multiplies the odds of the subject's token, where a method has one
    site_weights  the base's own (to_k, to_v) by site, from which projections start; None leaves
                  them random, for weights that are loaded afterwards
    """

    config: EncoderConfig
    norm: NormControl = NormControl()
    token_weight: float = 16.0
    site_weights: SiteWeights | None = None

    def encoder(self, tokens: int | None = None) -> NestedEncoder:
        """A fresh encoder; drawn from torch's global generator."""
        made = NestedEncoder(replace(self.config, tokens=tokens or self.config.tokens))
        if self.site_weights is not None:
            made.projections.init_from(self.site_weights)
        return made

    def nested(self, tokens: int | None = None) -> NestedMethod:
        return NestedMethod(self.encoder(tokens), self.norm, self.token_weight)


_METHODS: dict[str, Callable[[Plan], Method]] = {
    "nested": Plan.nested,
    "single_token": lambda p: SingleToken(p.config, nested_budget(p.config), p.token_weight),
    "appended_tokens": lambda p: AppendedTokens(p.config, nested_budget(p.config)),
    "decoupled": lambda p: Decoupled(p.encoder()),
    "nested_no_norm": lambda p: NestedMethod(p.encoder(), NormControl("none"), p.token_weight),
    "nested_1": lambda p: p.nested(1),
    "nested_4": lambda p: p.nested(4),
    "nested_64": lambda p: p.nested(64),
    "nested_key_too": lambda p: NestedKeyToo(p.encoder(), p.norm, p.token_weight),
}
NAMES = tuple(_METHODS)
BASELINES = NAMES[1:]


def build(name: str, plan: Plan) -> Method:
    """The method of that name, untrained; raises NestedAttentionError for an unknown name."""
    if name not in _METHODS:
        raise NestedAttentionError(
            f'There is no method "{name}"; choose one of {", ".join(NAMES)}.'
        )
    return _METHODS[name](plan)
