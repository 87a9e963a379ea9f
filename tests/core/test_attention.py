"""nested_attention against a dense formula written on its own: the value tensor of every query."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nested_attn_core.attention import NormControl, SiteSubject, nested_attention

# Drawing is slow on a loaded machine, and that is no failure.
relaxed = settings(deadline=None, max_examples=100)


@dataclass(frozen=True)
class Case:
    query: Tensor
    key: Tensor
    value: Tensor
    subjects: tuple[SiteSubject, ...]
    heads: int

    def base(self) -> Tensor:
        return dense(self.query, self.key, self.value, (), self.heads)

    def run(self, base: Tensor | None = None) -> Tensor:
        base = self.base() if base is None else base
        return nested_attention(base, self.query, self.key, self.value, self.subjects, self.heads)

    def expected(self) -> Tensor:
        return dense(self.query, self.key, self.value, self.subjects, self.heads)

    def to(self, dtype: torch.dtype) -> Case:
        subjects = tuple(
            replace(
                s,
                key=s.key.to(dtype),
                value=s.value.to(dtype),
                mask=None if s.mask is None else s.mask.to(dtype),
            )
            for s in self.subjects
        )
        query, key, value = (tensor.to(dtype) for tensor in (self.query, self.key, self.value))
        return Case(query, key, value, subjects, self.heads)


def dense(query: Tensor, key: Tensor, value: Tensor, subjects, heads: int) -> Tensor:
    """Equations (1) to (3) as written, row by row and head by head, in the inputs' dtype."""
    rows = []
    for row in range(len(query)):
        nested = [dense_nested(query[row], s, row, heads) for s in subjects]
        per_head = [
            dense_head(query[row], key[row], value[row], subjects, nested, row, head, heads)
            for head in range(heads)
        ]
        rows.append(torch.cat(per_head, dim=-1))
    return torch.stack(rows)


def dense_nested(query: Tensor, subject: SiteSubject, row: int, heads: int) -> Tensor:
    """v* of each query over all heads, (N, inner)."""
    key, value = (t[row] if len(t) > 1 else t[0] for t in (subject.key, subject.value))
    size = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        span = slice(head * size, (head + 1) * size)
        logits = torch.einsum("nd,md->nm", query[:, span], key[:, span]) / math.sqrt(size)
        parts.append(torch.einsum("nm,md->nd", by_hand_softmax(logits), value[:, span]))
    return torch.cat(parts, dim=-1)


def dense_head(query, key, value, subjects, nested, row, head, heads) -> Tensor:
    size = query.shape[-1] // heads
    span = slice(head * size, (head + 1) * size)
    logits = torch.einsum("nd,td->nt", query[:, span], key[:, span]) / math.sqrt(size)
    per_query = value[:, span].expand(len(query), -1, -1).clone()
    for subject, star in zip(subjects, nested, strict=True):
        if subject.strength == 0:
            continue
        mask = torch.ones(len(query), dtype=query.dtype)
        if subject.mask is not None:
            mask = subject.mask[row if len(subject.mask) > 1 else 0]
        for position in subject.positions[row].tolist():
            if position < 0:
                continue
            logits[:, position] += mask * math.log(subject.token_weight)
            put = star
            if subject.norm.mode == "text":
                wanted = subject.norm.factor * value[position].pow(2).sum().sqrt()
                put = star * wanted / star.pow(2).sum(-1, keepdim=True).sqrt()
            blend = subject.strength * mask[:, None]
            old = value[position, span]
            per_query[:, position] = old + blend * (put[:, span] - old)
    return torch.einsum("nt,ntd->nd", by_hand_softmax(logits), per_query)


def by_hand_softmax(logits: Tensor) -> Tensor:
    raised = (logits - logits.amax(-1, keepdim=True)).exp()
    return raised / raised.sum(-1, keepdim=True)


norms = st.one_of(
    st.just(NormControl("none")),
    st.floats(0, 3).map(lambda factor: NormControl("text", factor)),
)


@st.composite
def cases(draw, fewest: int = 0, most: int = 4) -> Case:
    batch, queries, tokens = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 12)),
    )
    heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    slots = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(fewest, most)))]
    positions = [draw_positions(draw, tokens, sum(slots)) for _ in range(batch)]
    bound = torch.tensor(positions, dtype=torch.int64).reshape(batch, -1).split(slots, dim=1)
    subjects = []
    for own in bound:
        shared = 1 if draw(st.booleans()) else batch
        nested = draw(st.integers(1, 7))
        mask = draw(st.sampled_from(["none", "shared", "own", "edges"]))
        subjects.append(
            SiteSubject(
                normal(shared, nested, heads * size),
                normal(shared, nested, heads * size),
                own,
                strength=draw(st.sampled_from([1.0, 0.0]) | st.floats(-1, 2)),
                norm=draw(norms),
                token_weight=draw(st.just(1.0) | st.floats(0.2, 5)),
                mask=draw_mask(mask, batch, queries, random),
            )
        )
    inner = heads * size
    parts = (
        normal(batch, queries, inner),
        normal(batch, tokens, inner),
        normal(batch, tokens, inner),
    )
    return Case(*parts, tuple(subjects), heads)


def draw_positions(draw, tokens: int, slots: int) -> list[int]:
    """Distinct tokens for the slots, some of them left empty; sometimes all."""
    if draw(st.integers(0, 3)) == 0:
        return [-1] * slots
    order = (draw(st.permutations(range(tokens))) + [-1] * slots)[:slots]
    return [token if draw(st.integers(0, 2)) else -1 for token in order]


def draw_mask(kind: str, batch: int, queries: int, random: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.rand(1 if kind == "shared" else batch, queries, generator=random).double()
    return mask.round() if kind == "edges" else mask


@relaxed
@given(cases())
def test_equals_the_dense_formula_in_fp64(case: Case) -> None:
    assert (case.run() - case.expected()).abs().max() <= 1e-10


@relaxed
@given(cases())
def test_equals_the_dense_formula_in_fp32(case: Case) -> None:
    case = case.to(torch.float32)
    exact = case.to(torch.float64)
    # A v* that all but vanishes has no direction in fp32 that the norm control could keep.
    assume(all(amplification(exact, subject) < 20 for subject in exact.subjects))
    got = case.run(exact.base().float())
    assert (got.double() - exact.expected()).abs().max() <= 1e-5


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equals_the_dense_formula_at_the_sizes_of_a_real_site(dtype, allowed) -> None:
    random = torch.Generator().manual_seed(11)
    query, key, value, nested_key, nested_value = (
        torch.randn(rows, length, 320, generator=random).to(dtype)
        for rows, length in ((2, 64), (2, 77), (2, 77), (1, 256), (1, 256))
    )
    positions = torch.tensor([[5, 9], [-1, -1]])
    first = SiteSubject(nested_key[:, :64], nested_value[:, :64], positions)
    second = SiteSubject(nested_key, nested_value, torch.tensor([[7], [70]]), token_weight=1.5)
    case = Case(query, key, value, (first, second), heads=8)
    exact = case.to(torch.float64)
    got = case.run(exact.base().to(dtype)).double()
    assert (got - exact.expected()).abs().max() <= allowed


@relaxed
@given(cases(1, 3), st.sampled_from([torch.float16, torch.bfloat16]))
def test_half_precision_stays_within_its_rounding(case: Case, dtype: torch.dtype) -> None:
    case = case.to(dtype)
    exact = case.to(torch.float64)
    got = case.run(exact.base().to(dtype)).double()
    assert (got - exact.expected()).abs().max() <= half_tolerance(exact, dtype)


def half_tolerance(exact: Case, dtype: torch.dtype) -> float:
    """Rounding errors, each of at most half a unit in the last place of what is rounded.

    Rounded to the half type are the base, the result, v*, and inside the nested softmax (on
    kernels that keep it in half) its weights: at most one unit of the largest nested value. The
    strength, the norm control and the token weight scale the errors made before them.
    """
    unit = torch.finfo(dtype).eps / 2
    weight = math.prod(max(s.token_weight, 1 / s.token_weight) for s in exact.subjects)
    errors = exact.base().abs().max() + exact.expected().abs().max()
    for subject in exact.subjects:
        nested = subject.value.abs().max() * amplification(exact, subject)
        errors = errors + abs(subject.strength) * 3 * nested
    return float(2 * unit * weight * errors)


def amplification(exact: Case, subject: SiteSubject) -> float:
    """How much the norm control lengthens v*, at most."""
    if subject.norm.mode == "none":
        return 1.0
    shortest = min(
        float(dense_nested(exact.query[row], subject, row, exact.heads).norm(dim=-1).min())
        for row in range(len(exact.query))
    )
    return max(1.0, subject.norm.factor * float(exact.value.norm(dim=-1).max()) / shortest)


def one_subject(rows: int = 3, dtype: torch.dtype = torch.float64, **changes) -> Case:
    """Four queries, six tokens, two heads of four; the subject is token 2 (and 4 in row 0)."""
    random = torch.Generator().manual_seed(7)
    query, key, value, nested_key, nested_value = (
        torch.randn(batch, length, 8, generator=random, dtype=torch.float64).to(dtype)
        for batch, length in ((rows, 4), (rows, 6), (rows, 6), (1, 5), (1, 5))
    )
    positions = torch.full((rows, 2), -1)
    positions[:, 1] = 2
    positions[0, 0] = 4
    subject = SiteSubject(nested_key, nested_value, positions)
    return Case(query, key, value, (replace(subject, **changes),), heads=2)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Also tells -0.0 from 0.0."""
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def with_negative_zeros(base: Tensor) -> Tensor:
    base = base.clone()
    base[..., ::3] = -0.0
    return base


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("token_weight", [1.0, 3.0])
def test_rows_without_the_subject_keep_their_bits(dtype, token_weight) -> None:
    positions = torch.tensor([[-1, -1], [3, -1], [-1, -1]])
    case = one_subject(dtype=dtype, positions=positions, token_weight=token_weight)
    base = with_negative_zeros(case.to(torch.float64).base().to(dtype))
    got = case.run(base)
    assert same_bits(got[[0, 2]], base[[0, 2]])
    assert not torch.equal(got[1], base[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_masked_query_keeps_its_bits(dtype) -> None:
    mask = torch.tensor([[0.0, 1.0, 0.0, 0.5]])
    case = one_subject(dtype=dtype, mask=mask, token_weight=3.0)
    base = with_negative_zeros(case.to(torch.float64).base().to(dtype))
    got = case.run(base)
    assert same_bits(got[:, [0, 2]], base[:, [0, 2]])
    assert not torch.equal(got[:, 1], base[:, 1])
    assert not torch.equal(got[:, 3], base[:, 3])


@pytest.mark.parametrize(
    "changes",
    [
        {"strength": 0.0},
        {"strength": 0.0, "token_weight": 4.0},
        {"mask": torch.zeros(1, 4)},
        {"mask": torch.zeros(3, 4), "token_weight": 4.0},
        {"positions": torch.full((3, 2), -1), "token_weight": 4.0},
    ],
)
def test_a_subject_that_cannot_act_returns_the_base_itself(changes) -> None:
    case = one_subject(**changes)
    base = case.base()
    assert case.run(base) is base


def test_no_subjects_return_the_base_itself() -> None:
    case = replace(one_subject(), subjects=())
    base = case.base()
    assert case.run(base) is base


def test_a_row_where_one_subject_lacks_is_served_by_the_other() -> None:
    first = one_subject(positions=torch.tensor([[1], [-1], [-1]]))
    second = one_subject(positions=torch.tensor([[-1], [-1], [5]]), strength=0.5)
    both = replace(first, subjects=first.subjects + second.subjects)
    base = first.base()
    got = both.run(base)
    torch.testing.assert_close(got[0], first.run(base)[0], rtol=0, atol=1e-14)
    assert same_bits(got[1], base[1])
    torch.testing.assert_close(got[2], second.run(base)[2], rtol=0, atol=1e-14)


@pytest.mark.parametrize("token_weight", [1.0, 2.0])
def test_subjects_in_overlapping_rows_of_a_batch(token_weight) -> None:
    first = [[0, 3], [1, -1], [-1, -1], [-1, 2], [-1, -1]]
    second = [[-1, -1], [5, 4], [5, 4], [4, -1], [-1, -1]]
    cases = [
        one_subject(5, positions=torch.tensor(rows), token_weight=token_weight)
        for rows in (first, second)
    ]
    other = replace(cases[1].subjects[0], strength=0.5, value=cases[1].subjects[0].value.flip(1))
    case = replace(cases[0], subjects=(*cases[0].subjects, other))
    torch.testing.assert_close(case.run(), case.expected(), rtol=0, atol=1e-12)


@relaxed
@given(cases(1, 3))
def test_shared_nested_keys_equal_expanded_ones(case: Case) -> None:
    shared = [replace(s, key=s.key[:1], value=s.value[:1]) for s in case.subjects]
    batch = len(case.query)
    expanded = [
        replace(s, key=s.key.expand(batch, -1, -1), value=s.value.expand(batch, -1, -1))
        for s in shared
    ]
    one, other = (replace(case, subjects=tuple(some)).run() for some in (shared, expanded))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@relaxed
@given(cases(2, 4))
def test_the_order_of_subjects_does_not_matter(case: Case) -> None:
    turned = replace(case, subjects=case.subjects[::-1])
    torch.testing.assert_close(case.run(), turned.run(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", [NormControl("none"), NormControl("text", 2.0)])
def test_strength_moves_the_output_in_proportion(norm) -> None:
    case = one_subject(norm=norm)
    base = case.base()
    full = case.run(base) - base
    for strength in (-0.5, 0.25, 1.5):
        some = one_subject(norm=norm, strength=strength).run(base) - base
        torch.testing.assert_close(some, strength * full, rtol=0, atol=1e-13)


def test_the_norm_control_makes_the_scale_of_nested_values_irrelevant() -> None:
    case = one_subject(norm=NormControl("text", 2.0))
    scaled = replace(case, subjects=(replace(case.subjects[0], value=case.subjects[0].value * 50),))
    torch.testing.assert_close(case.run(), scaled.run(), rtol=0, atol=1e-12)


def test_another_patch_beneath_is_kept() -> None:
    case = one_subject()
    extra = torch.randn(3, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(case.run(case.base() + extra), case.run() + extra)


def test_inputs_are_not_written_to() -> None:
    case = one_subject(mask=torch.rand(3, 4), token_weight=2.0)
    base = case.base()
    subject = case.subjects[0]
    tensors = [base, case.query, case.key, case.value, subject.key, subject.value]
    tensors += [subject.positions, subject.mask]
    before = [tensor.clone() for tensor in tensors]
    case.run(base)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("norm", [NormControl("none"), NormControl("text", 2.0)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("token_weight", [1.0, 2.5])
@pytest.mark.parametrize("masked", [True, False])
def test_gradients(norm, shared, token_weight, masked) -> None:
    random = torch.Generator().manual_seed(3)

    def leaf(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=random, dtype=torch.float64)
        return drawn.requires_grad_()

    positions = torch.tensor([[1, 3], [-1, -1], [-1, 0]])
    mask = torch.rand(3, 2, generator=random).double() if masked else None
    keys = 1 if shared else 3

    def output(query, key, value, nested_key, nested_value) -> Tensor:
        base = dense(query, key, value, (), 2)
        subject = SiteSubject(
            nested_key, nested_value, positions, 0.7, norm, token_weight, mask=mask
        )
        return nested_attention(base, query, key, value, [subject], 2)

    leaves = leaf(3, 2, 4), leaf(3, 4, 4), leaf(3, 4, 4), leaf(keys, 3, 4), leaf(keys, 3, 4)
    assert torch.autograd.gradcheck(output, leaves)


def test_the_base_gets_its_gradient() -> None:
    case = one_subject()
    base = case.base().requires_grad_()
    case.run(base).sum().backward()
    assert base.grad is not None
    torch.testing.assert_close(base.grad, torch.ones_like(base))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeroed", ["nested", "text", "both"])
def test_values_of_length_zero_give_no_nan(dtype, zeroed) -> None:
    case = one_subject(dtype=dtype, norm=NormControl("text", 2.0))
    subject = case.subjects[0]
    if zeroed in ("nested", "both"):
        subject = replace(subject, value=torch.zeros_like(subject.value))
    value = case.value if zeroed == "nested" else torch.zeros_like(case.value)
    subject.value.requires_grad_()
    value = value.clone().requires_grad_()
    case = replace(case, value=value, subjects=(subject,))
    got = case.run(torch.zeros_like(case.query))
    got.sum().backward()
    assert got.isfinite().all()
    assert subject.value.grad is not None and subject.value.grad.isfinite().all()
    assert value.grad is not None and value.grad.isfinite().all()
    if zeroed != "nested":
        assert not got.any()


def test_a_nested_value_of_length_zero_takes_the_text_value_away() -> None:
    case = one_subject(norm=NormControl("text", 2.0))
    zero = torch.zeros_like(case.subjects[0].value)
    with_control = replace(case, subjects=(replace(case.subjects[0], value=zero),))
    without = replace(
        case, subjects=(replace(case.subjects[0], value=zero, norm=NormControl("none")),)
    )
    torch.testing.assert_close(with_control.run(), without.run(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite_and_right_in_half_precision(dtype) -> None:
    case = one_subject(dtype=torch.float64, token_weight=2.0)
    large = replace(case, query=case.query * 200, key=case.key * 200).to(dtype)
    exact = large.to(torch.float64)
    logits = exact.query[0, :, :4] @ exact.key[0, :, :4].T
    assert logits.abs().max() > torch.finfo(torch.float16).max
    got = large.run(exact.base().to(dtype))
    assert got.isfinite().all()
    assert (got.double() - exact.expected()).abs().max() <= half_tolerance(exact, dtype)


def test_a_subject_that_takes_all_the_attention_leaves_its_nested_value_alone() -> None:
    case = one_subject(positions=torch.full((3, 1), 2), norm=NormControl("none"))
    key = torch.zeros_like(case.key)
    query = case.query.abs()
    key[:, 2] = 1e4
    case = replace(case, key=key, query=query)
    expected = [dense_nested(query[row], case.subjects[0], row, 2) for row in range(3)]
    torch.testing.assert_close(case.run(), torch.stack(expected), rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // 8)
        return out


@pytest.mark.parametrize("token_weight", [1.0, 2.0])
def test_no_value_tensor_per_query_is_ever_built(token_weight) -> None:
    batch, queries, tokens, heads, size, nested = 2, 32, 16, 4, 16, 8
    inner = heads * size
    query, key, value, nested_key, nested_value = (
        torch.randn(rows, length, inner, dtype=torch.float64)
        for rows, length in (
            (batch, queries), (batch, tokens), (batch, tokens), (1, nested), (1, nested)
        )
    )  # fmt: skip
    subject = SiteSubject(
        nested_key, nested_value, torch.tensor([[3], [5]]), token_weight=token_weight
    )
    with LargestTensor() as largest:
        nested_attention(query.clone(), query, key, value, [subject], heads)
    allowed = max(batch * queries * inner, batch * heads * queries * max(tokens, nested))
    assert 0 < largest.numel <= allowed < batch * heads * queries * tokens * size
