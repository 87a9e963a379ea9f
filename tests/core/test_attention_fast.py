"""The ways in which nested_attention saves work give what the plain way gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nested_attn_core.attention import NormControl, SiteSubject, nested_attention
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.outer_attention import attention_with_normaliser, column_probability
from nested_attn_core.site_subjects import SiteSubjects
from test_attention import (
    Case,
    amplification,
    cases,
    dense_nested,
    half_tolerance,
    one_subject,
    same_bits,
)

relaxed = settings(deadline=None, max_examples=40)


def in_one_pass(case: Case) -> Tensor:
    """With base and normaliser of one kernel, and a base that may be overwritten."""
    found = attention_with_normaliser(case.query, case.key, case.value, case.heads)
    assert found is not None
    base, normaliser = found
    return nested_attention(
        base, case.query, case.key, case.value, case.subjects, case.heads, normaliser, True
    )


def host_like(case: Case) -> Tensor:
    parts = (case.query, case.key, case.value)
    query, key, value = (t.unflatten(-1, (case.heads, -1)).transpose(1, 2) for t in parts)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@relaxed
@given(cases())
def test_one_pass_equals_the_dense_formula_in_fp64(case: Case) -> None:
    assert (in_one_pass(case) - case.expected()).abs().max() <= 1e-10


@relaxed
@given(cases(1), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_one_pass_is_as_close_to_fp64_as_the_plain_path(case: Case, dtype: torch.dtype) -> None:
    case = case.to(dtype)
    exact = case.to(torch.float64).expected()
    plain = (case.run(host_like(case)).double() - exact).abs().max()
    unit = torch.finfo(dtype).eps * float(exact.abs().max())
    if dtype == torch.float32:
        # Where v* all but vanishes, its direction is lost on either path.
        wide = case.to(torch.float64)
        unit = max(1e-5, unit) * max(1.0, *(amplification(wide, s) for s in wide.subjects))
    assert (in_one_pass(case).double() - exact).abs().max() <= 2 * plain + unit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_kernels_output_is_that_of_the_public_function_to_the_bit(dtype) -> None:
    case = one_subject(dtype=dtype)
    found = attention_with_normaliser(case.query, case.key, case.value, case.heads)
    assert found is not None
    assert same_bits(found[0], host_like(case))


def test_the_normaliser_gives_the_probabilities_of_the_whole_softmax() -> None:
    case = one_subject()
    found = attention_with_normaliser(case.query, case.key, case.value, case.heads)
    assert found is not None
    index = torch.tensor([[4, 2], [0, 2], [5, 1]])
    given_ = column_probability(case.query, case.key, index, case.heads, found[1])
    made = column_probability(case.query, case.key, index, case.heads)
    torch.testing.assert_close(given_, made, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("positions", [[-1, 3, -1], [2, -1, 2], [-1, 1, 2]])
def test_one_pass_leaves_other_rows_alone(dtype, positions) -> None:
    case = one_subject(dtype=dtype, positions=torch.tensor(positions)[:, None], token_weight=16.0)
    without = torch.tensor(positions) < 0
    got = in_one_pass(case)
    assert same_bits(got[without], host_like(case)[without])
    assert not torch.equal(got[~without], host_like(case)[~without])


def test_there_is_no_normaliser_where_gradients_flow() -> None:
    case = one_subject()
    query = case.query.requires_grad_()
    assert attention_with_normaliser(query, case.key, case.value, case.heads) is None
    with torch.no_grad():
        assert attention_with_normaliser(query, case.key, case.value, case.heads) is not None


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_base_is_overwritten_only_on_demand(overwrite) -> None:
    case = one_subject(dtype=torch.float32, positions=torch.tensor([[-1], [2], [-1]]))
    base = case.base()
    before = base.clone()
    got = nested_attention(
        base, case.query, case.key, case.value, case.subjects, case.heads, None, overwrite
    )
    assert torch.equal(base, before) != overwrite
    torch.testing.assert_close(got, case.run(before), rtol=0, atol=1e-6)


@relaxed
@given(cases(1), st.sampled_from([1e-3, 0.02, 0.1, 0.5]))
def test_a_threshold_keeps_its_bound(case: Case, threshold: float) -> None:
    shared = tuple(
        replace(s, key=s.key[:1], value=s.value[:1], threshold=threshold) for s in case.subjects
    )
    limited = replace(case, subjects=shared)
    exact = replace(case, subjects=tuple(replace(s, threshold=0.0) for s in shared))
    error = (limited.run() - exact.run()).norm(dim=-1)
    assert (error <= bound(limited, threshold) + 1e-10).all()


def bound(case: Case, threshold: float) -> Tensor:
    """threshold * |strength| * ||v* - V[s]|| over the tokens of all subjects, (B, N)."""
    most = torch.zeros(case.query.shape[:2], dtype=torch.float64)
    for subject in case.subjects:
        for row, positions in enumerate(subject.positions.tolist()):
            star = dense_nested(case.query[row], subject, row, case.heads)
            for position in positions:
                text = case.value[row, position]
                put = star
                if subject.norm.mode == "text":
                    put = star * subject.norm.factor * text.norm() / star.norm(dim=-1)[:, None]
                if position >= 0:
                    most[row] += threshold * abs(subject.strength) * (put - text).norm(dim=-1)
    return most


def test_a_threshold_leaves_out_what_it_says_and_nothing_else() -> None:
    case = one_subject(positions=torch.full((3, 1), 2), token_weight=4.0)
    share = column_probability(case.query, case.key, torch.full((3, 1), 2), case.heads)
    share = (4 * share / (1 + 3 * share)).amax((2, 3))
    lower, upper = share.flatten().sort().values[6:8].tolist()
    threshold = (lower + upper) / 2  # a share at the threshold itself would hang on its last bit
    kept = share > threshold
    assert 0 < kept.sum() < kept.numel()
    limited = replace(case, subjects=(replace(case.subjects[0], threshold=threshold),))
    exact, got = case.run(), limited.run()
    torch.testing.assert_close(got[kept], exact[kept], rtol=0, atol=1e-14)
    assert ((got - exact)[~kept].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_that_is_no_probability(threshold) -> None:
    with pytest.raises(NestedAttentionError, match="from 0 .exact. to below 1"):
        replace(one_subject().subjects[0], threshold=threshold)


@pytest.mark.parametrize("queries", [[1, 3], [0, 1, 2, 3]])
def test_queries_outside_a_mask_cost_nothing(queries, monkeypatch) -> None:
    mask = torch.zeros(1, 4, dtype=torch.float64)
    mask[:, queries] = 0.5
    case = one_subject(mask=mask, token_weight=3.0)
    seen: list[int] = []
    attend = F.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(query.shape[0] * query.shape[2])
        return attend(query, key, value)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    torch.testing.assert_close(case.run(), case.expected(), rtol=0, atol=1e-12)
    assert seen == [3 * len(queries)]
    given_ = replace(case.subjects[0], queries=torch.tensor(queries))
    assert torch.equal(replace(case, subjects=(given_,)).run(), case.run())


def test_sites_of_one_call_check_their_positions_once() -> None:
    case = one_subject()
    known: dict = {}
    for _ in range(3):
        subjects = SiteSubjects.sharing(known, case.subjects)
        got = nested_attention(case.base(), case.query, case.key, case.value, subjects, case.heads)
        assert torch.equal(got, case.run())
    assert len(known) == 1


@pytest.mark.parametrize("normaliser", [True, False])
def test_nothing_is_read_back_from_the_device(normaliser) -> None:
    """The meta device has no numbers: reading one, as .item() and nonzero() do, raises."""

    def there(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(there(1).any())
    positions = torch.tensor([[-1, -1], [5, -1], [7, 6]])
    one = SiteSubject(there(1, 4, 16), there(1, 4, 16), positions, token_weight=16.0)
    mask, queries = there(1, 6), there(3, dtype=torch.long)
    elsewhere = torch.tensor([[9, 8], [-1, -1], [3, -1]])
    other = SiteSubject(there(1, 9, 16), there(1, 9, 16), elsewhere, mask=mask, queries=queries)
    query, context = there(3, 6, 16), there(3, 12, 16)
    out = nested_attention(
        query, query, context, context, [one, other], 2,
        there(3, 2, 6, dtype=torch.float32) if normaliser else None, normaliser,
    )  # fmt: skip
    assert out.shape == query.shape
    assert out.device.type == "meta"


def test_many_subjects_of_all_kinds_in_half_precision() -> None:
    case = one_subject(positions=torch.tensor([[1], [-1], [0]]), token_weight=16.0)
    other = one_subject(positions=torch.tensor([[2, 3], [4, -1], [-1, -1]]), strength=0.5)
    third = one_subject(positions=torch.full((3, 1), 5), norm=NormControl("none"))
    case = replace(case, subjects=(*case.subjects, *other.subjects, *third.subjects))
    half = case.to(torch.bfloat16)
    exact = half.to(torch.float64)
    error = (in_one_pass(half).double() - exact.expected()).abs().max()
    assert error <= half_tolerance(exact, torch.bfloat16)
