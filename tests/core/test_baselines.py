"""The baselines against dense formulas, query by query, and what trains in them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nested_attn_core.attention import NormControl, SiteSubject, nested_attention
from nested_attn_core.encoder import EncoderConfig, Site
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.evaluation.baselines.columns import Columns, weigh_columns
from nested_attn_core.evaluation.baselines.decoupled import ImageTokens, add_image_attention
from nested_attn_core.evaluation.baselines.key_too import nested_attention_with_key
from nested_attn_core.evaluation.baselines.registry import BASELINES, NAMES, Plan, build
from nested_attn_core.evaluation.baselines.sizes import count, nested_budget

relaxed = settings(deadline=None, max_examples=40)
sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "queries": st.integers(1, 5),
        "tokens": st.integers(2, 6),
        "nested": st.integers(1, 4),
        "heads": st.integers(1, 3),
        "width": st.sampled_from([2, 4]),
        "seed": st.integers(0, 999),
    }
)
SITES = (Site("input", 1, 0, 8), Site("middle", 0, 0, 12))
CONFIG = EncoderConfig(
    feature_dim=10, tokens=4, token_dim=6, width=8, depth=2, heads=2, head_dim=4, ff_mult=2,
    sites=SITES,
)  # fmt: skip
# Sizes of the shipped encoders.
MINIATURE = EncoderConfig(
    feature_dim=192, tokens=16, token_dim=128, width=192, depth=3, heads=4, head_dim=48, ff_mult=2,
    sites=tuple(Site("output", number, 0, 192 if number < 7 else 96) for number in range(10)),
)  # fmt: skip


class Case:
    """Random inputs of one site, float64; `positions` leaves some rows without a subject."""

    def __init__(self, batch, queries, tokens, nested, heads, width, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.heads, self.width, self.tokens = heads, width, tokens
        inner = heads * width
        self.query = self.draw(batch, queries, inner)
        self.key, self.value = self.draw(batch, tokens, inner), self.draw(batch, tokens, inner)
        self.nested_key = self.draw(batch, nested, inner)
        self.nested_value = self.draw(batch, nested, inner)
        self.positions = torch.randint(-1, tokens, (batch, 1), generator=self.generator)
        self.base = self.dense(lambda row, head, query, logits, values: logits.softmax(0) @ values)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def part(self, tensor: Tensor, row: int, head: int) -> Tensor:
        return tensor[row, :, head * self.width : (head + 1) * self.width]

    def dense(self, one) -> Tensor:
        """one(row, head, query (d), text logits (T), values (T, d)) -> (d), for every query."""
        out = torch.empty_like(self.query)
        for row in range(len(out)):
            for head in range(self.heads):
                queries, into = self.part(self.query, row, head), self.part(out, row, head)
                keys, values = self.part(self.key, row, head), self.part(self.value, row, head)
                for index, query in enumerate(queries):
                    into[index] = one(row, head, query, keys @ query / self.width**0.5, values)
        return out

    def subject(self, **settings) -> SiteSubject:
        return SiteSubject(self.nested_key, self.nested_value, self.positions, **settings)


@relaxed
@given(sizes, st.floats(0.1, 30))
def test_weighed_columns_add_to_the_logits(made, odds) -> None:
    case = Case(**made)

    def one(row, head, query, logits, values):
        at = int(case.positions[row, 0])
        logits = logits.clone()
        if at >= 0:
            logits[at] += math.log(odds)
        return logits.softmax(0) @ values

    items = [Columns(case.positions, torch.full(case.positions.shape, odds))]
    out = weigh_columns(case.base, case.query, case.key, case.value, items, case.heads)
    torch.testing.assert_close(out, case.dense(one), atol=1e-6, rtol=1e-6)
    absent = (case.positions < 0).flatten()
    assert torch.equal(out[absent], case.base[absent])


@relaxed
@given(sizes, st.floats(1.5, 30))
def test_a_weighed_column_is_nested_attention_with_the_value_that_is_there(made, weight) -> None:
    case = Case(**made)
    rows = torch.arange(len(case.positions))[:, None]
    own = case.value[rows, case.positions.clamp_min(0)]
    subject = SiteSubject(
        torch.zeros_like(own), own, case.positions, norm=NormControl("none"), token_weight=weight
    )
    inputs = (case.base, case.query, case.key, case.value)
    expected = nested_attention(*inputs, [subject], case.heads)
    items = [Columns(case.positions, torch.full(case.positions.shape, weight))]
    found = weigh_columns(*inputs, items, case.heads)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@relaxed
@given(sizes)
def test_odds_of_zero_hide_a_row(made) -> None:
    case = Case(**made)
    last = torch.full((len(case.query), 1), case.tokens - 1)
    items = [Columns(last, torch.zeros(last.shape))]
    out = weigh_columns(case.base, case.query, case.key, case.value, items, case.heads)

    def one(row, head, query, logits, values):
        return logits[:-1].softmax(0) @ values[:-1]

    torch.testing.assert_close(out, case.dense(one))


@relaxed
@given(sizes, st.floats(-2, 2))
def test_decoupled_adds_a_second_attention_everywhere(made, scale) -> None:
    case = Case(**made)
    present = (case.positions >= 0).flatten()

    def one(row, head, query, logits, values):
        out = logits.softmax(0) @ values
        if not present[row]:
            return out
        keys = case.part(case.nested_key, row, head)
        seen = (keys @ query / case.width**0.5).softmax(0) @ case.part(case.nested_value, row, head)
        return out + scale * seen

    item = ImageTokens(case.nested_key, case.nested_value, present, scale)
    out = add_image_attention(case.base, case.query, case.key, case.value, [item], case.heads)
    torch.testing.assert_close(out, case.dense(one))
    assert torch.equal(out[~present], case.base[~present])


@relaxed
@given(sizes, st.floats(0.05, 2), st.floats(0.2, 20), st.sampled_from(["none", "text"]))
def test_a_nested_key_adds_to_the_token_s_key_for_each_query(made, strength, weight, mode) -> None:
    case = Case(**made)
    norm = NormControl(mode, 1.5)

    def nested(row, head, query) -> tuple[Tensor, Tensor]:
        keys = case.part(case.nested_key, row, head)
        share = (keys @ query / case.width**0.5).softmax(0)
        return share @ keys, share @ case.part(case.nested_value, row, head)

    def one(row, head, query, logits, values):
        at = int(case.positions[row, 0])
        if at < 0:
            return logits.softmax(0) @ values
        key, value = nested(row, head, query)
        if mode == "text":
            index = int((case.part(case.query, row, head) == query).all(1).nonzero()[0])
            every = torch.cat(
                [
                    nested(row, other, case.part(case.query, row, other)[index])[1]
                    for other in range(case.heads)
                ]
            )
            value = value * (1.5 * case.value[row, at].norm() / every.norm())
        logits, values = logits.clone(), values.clone()
        moved = key @ query / case.width**0.5
        logits[at] = logits[at] + strength * moved + math.log(weight)
        values[at] = (1 - strength) * values[at] + strength * value
        return logits.softmax(0) @ values

    subject = case.subject(strength=strength, norm=norm, token_weight=weight)
    inputs = (case.base, case.query, case.key, case.value)
    out = nested_attention_with_key(*inputs, [subject], case.heads)
    torch.testing.assert_close(out, case.dense(one))
    absent = (case.positions < 0).flatten()
    assert torch.equal(out[absent], case.base[absent])


@relaxed
@given(sizes)
def test_nested_keys_of_zero_leave_nested_attention(made) -> None:
    """Of a uniform choice of the nested tokens, which is how the baseline starts."""
    case = Case(**made)
    none = torch.zeros_like(case.nested_key)
    subject = SiteSubject(none, case.nested_value, case.positions, token_weight=3.0)
    inputs = (case.base, case.query, case.key, case.value)
    torch.testing.assert_close(
        nested_attention_with_key(*inputs, [subject], case.heads),
        nested_attention(*inputs, [subject], case.heads),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_the_base(dtype) -> None:
    case = Case(2, 4, 5, 3, 2, 4, seed=1)
    case.positions = torch.tensor([[1], [2]])
    full = (case.base, case.query, case.key, case.value)
    inputs = [tensor.to(dtype) for tensor in full]
    subject = SiteSubject(case.nested_key.to(dtype), case.nested_value.to(dtype), case.positions)
    image = ImageTokens(subject.key, subject.value, torch.tensor([True, True]), 1.0)
    columns = Columns(case.positions, torch.full((2, 1), 16.0))
    for attend, item, exact in (
        (weigh_columns, columns, columns),
        (
            add_image_attention,
            image,
            ImageTokens(case.nested_key, case.nested_value, *_rest(image)),
        ),
        (nested_attention_with_key, subject, case.subject()),
    ):
        out = attend(*inputs, [item], case.heads)  # type: ignore[arg-type]
        assert out.dtype == dtype
        expected = attend(*full, [exact], case.heads)  # type: ignore[arg-type]
        torch.testing.assert_close(out.double(), expected, atol=3e-2, rtol=3e-2)


def _rest(image: ImageTokens) -> tuple[Tensor, float]:
    return image.present, image.scale


def plan(config: EncoderConfig = CONFIG) -> Plan:
    torch.manual_seed(0)
    weights = {
        site.name: (torch.randn(site.width, 6), torch.randn(site.width, 6)) for site in config.sites
    }
    return Plan(config, site_weights=weights if config is CONFIG else None)


def attended(method, injection, site: Site, heads: int = 2) -> tuple[Tensor, Tensor]:
    """(output with the injection, output of the plain context) at one site of a made-up base."""
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(len(injection.context), 7, site.width, generator=generator)
    to_k, to_v = (torch.randn(site.width, 6, generator=generator) * 0.5 for _ in range(2))
    key, value = injection.context @ to_k.T, injection.context @ to_v.T
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    base = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    items = injection.sites.get(site.name, ())
    return method.attend(base, query, key, value, items, heads) if items else base, base


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_that_trains(name) -> None:
    method = build(name, plan())
    features, context = torch.randn(3, 5, 10), torch.randn(3, 6, 6)
    positions = torch.tensor([[1], [4], [2]])
    injection = method(features, context, positions)
    sum(attended(method, injection, site)[0].square().sum() for site in SITES).backward()  # type: ignore[union-attr]
    single = {"nested_1": "to_k"}  # one nested token is chosen whatever its key
    missing = [
        parameter_name
        for parameter_name, parameter in method.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert all(single.get(name, "?") in parameter_name for parameter_name in missing)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_the_base_and_strength_is_gradual(name) -> None:
    method = build(name, plan())
    features, context = torch.randn(2, 5, 10), torch.randn(2, 6, 6)
    positions = torch.tensor([[1], [4]])
    with torch.no_grad():
        off = method(features, context, positions, 0.0)
        weak, less, full = (
            attended(method, method(features, context, positions, s), SITES[1])[0]
            for s in (0.25, 0.26, 1.0)
        )
        found, base = attended(method, off, SITES[1])
    assert torch.equal(off.context, context) and torch.equal(found, base)
    assert (full - base).abs().max() > 1e-2
    assert 0 < (less - weak).abs().max() < 0.2 * (full - weak).abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_the_class_word_stay_the_base_s(name) -> None:
    method = build(name, plan())
    features, context = torch.randn(2, 5, 10), torch.randn(2, 6, 6)
    with torch.no_grad():
        injection = method(features, context, torch.tensor([[1], [-1]]))
        found, _ = attended(method, injection, SITES[0])
        _, base = attended(
            method, method(features, context, torch.tensor([[1], [-1]]), 0), SITES[0]
        )
    assert (found[0] - base[0]).abs().max() > 1e-2
    torch.testing.assert_close(found[1], base[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_batch_is_that_row_alone(name) -> None:
    method = build(name, plan())
    features, context = torch.randn(3, 5, 10), torch.randn(3, 6, 6)
    positions = torch.tensor([[1], [4], [0]])
    with torch.no_grad():
        every, _ = attended(method, method(features, context, positions), SITES[1])
        flipped, _ = attended(
            method, method(features.flip(0), context.flip(0), positions.flip(0)), SITES[1]
        )
    # The made-up queries stay where they are: only the middle row meets its own again.
    torch.testing.assert_close(flipped[1], every[1])
    assert (flipped[0] - every[0]).abs().max() > 1e-2


def test_the_single_token_stands_where_the_class_word_stood() -> None:
    method = build("single_token", plan())
    features, context = torch.randn(2, 5, 10), torch.randn(2, 6, 6)
    positions = torch.tensor([[1, 2], [4, -1]])
    with torch.no_grad():
        full = method(features, context, positions).context
        half = method(features, context, positions, 0.5).context
        offset = method.get_submodule("resampler")(features)
    torch.testing.assert_close(full[0, 1:3], context[0, 1:3] + offset[0])
    torch.testing.assert_close(full[1, 4], context[1, 4] + offset[1, 0])
    torch.testing.assert_close(half[1, 4], (full[1, 4] + context[1, 4]) / 2)
    kept = torch.ones(2, 6, dtype=torch.bool)
    kept[0, 1:3], kept[1, 4] = False, False
    assert torch.equal(full[kept], context[kept])


def test_appended_tokens_stand_behind_the_prompt() -> None:
    method = build("appended_tokens", plan())
    features, context = torch.randn(2, 5, 10), torch.randn(2, 6, 6)
    injection = method(features, context, torch.tensor([[1], [4]]), 0.5)
    assert injection.context.shape == (2, 6 + CONFIG.tokens, 6)
    assert torch.equal(injection.context[:, :6], context)
    offsets = method.get_submodule("resampler")(features)
    torch.testing.assert_close(injection.context[0, 6:], context[0, 1] + offsets[0])
    torch.testing.assert_close(injection.context[1, 6:], context[1, 4] + offsets[1])
    (item,) = injection.sites[SITES[0].name]
    assert torch.equal(item.positions, torch.arange(6, 10).expand(2, -1))
    assert torch.equal(item.odds, torch.full((2, 4), 0.5))


@pytest.mark.parametrize("name", ["single_token", "appended_tokens"])
def test_rows_in_the_context_start_near_the_class_word(name) -> None:
    method = build(name, plan())
    context = torch.randn(2, 6, 6)
    injection = method(torch.randn(2, 5, 10), context, torch.tensor([[1], [4]]))
    at = [0, 1], [1, 4]
    made = injection.context[:, 6:] if name == "appended_tokens" else injection.context[at][:, None]
    distance = (made - context[at][:, None]).pow(2).mean((1, 2)).sqrt()
    assert (distance > 0).all() and (distance < 0.15).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_as_many_parameters_as_the_nested_encoder(name) -> None:
    target = nested_budget(MINIATURE)
    assert 1.3e6 < target < 1.5e6
    assert abs(count(build(name, Plan(MINIATURE))) / target - 1) < 0.1


def test_the_baselines_differ_in_what_they_are_named_for() -> None:
    queries = {
        name: build(name, plan()).state_dict()["encoder.resampler.queries"].shape[1]
        for name in ("nested_1", "nested_4", "nested_64")
    }
    assert queries == {"nested_1": 1, "nested_4": 4, "nested_64": 64}
    free, ours = build("nested_no_norm", plan()), build("nested", plan())
    assert free.norm.mode == "none" and ours.norm == NormControl()
    assert free.token_weight == ours.token_weight == 16


def test_projections_start_from_the_base() -> None:
    shared = plan()
    assert shared.site_weights is not None
    for name in ("nested", "decoupled", "nested_key_too"):
        state = build(name, shared).state_dict()
        key, value = shared.site_weights["middle.0.0"]
        start = key if name != "nested_key_too" else torch.zeros_like(key)
        assert torch.equal(state["encoder.projections.middle.0.0.to_k.weight"], start)
        assert torch.equal(state["encoder.projections.middle.0.0.to_v.weight"], value)


def test_an_unknown_method_is_a_sentence() -> None:
    with pytest.raises(NestedAttentionError, match='no method "many"; choose one of nested, '):
        build("many", plan())


@pytest.mark.parametrize("columns", [(0.0, 0.5), (0.5, 1.0), (1 / 3, 2 / 3)])
def test_a_placed_subject_acts_in_its_columns_only(columns) -> None:
    torch.manual_seed(0)
    query, base = torch.randn(2, 1, 36, 8)
    key, value = torch.randn(2, 1, 5, 8)
    present = torch.ones(1, dtype=torch.bool)
    item = ImageTokens(key, value, present, 1.0)
    placed = ImageTokens(key, value, present, 1.0, columns)
    everywhere = add_image_attention(base, query, key, value, [item], 2) - base
    there = (add_image_attention(base, query, key, value, [placed], 2) - base).view(6, 6, 8)
    first, last = (round(edge * 6) for edge in columns)
    inside = torch.zeros(6, dtype=torch.bool)
    inside[first:last] = True
    torch.testing.assert_close(there[:, inside], everywhere.view(6, 6, 8)[:, inside])
    assert not there[:, ~inside].any()


def test_a_column_that_is_cut_through_counts_by_its_share() -> None:
    query, key, value = torch.zeros(1, 4, 2), torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    present = torch.ones(1, dtype=torch.bool)
    item = ImageTokens(key, value, present, 1.0, (0.25, 1.0))
    out = add_image_attention(torch.zeros(1, 4, 2), query, key, value, [item], 1)
    assert out[0, :, 0].tolist() == [0.5, 1.0, 0.5, 1.0]
