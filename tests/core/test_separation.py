"""Keeping subjects apart, against dense formulas written on their own: loops."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nested_attn_core.assignment import assigned
from nested_attn_core.attention import NormControl, SiteSubject, nested_attention
from nested_attn_core.bounded import BACKGROUND, bounded_attention, regions
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.running_map import RunningMap
from nested_attn_core.separation import Claims, Memory, Separation
from nested_attn_core.site_subjects import SiteSubjects

# Drawing is slow on a loaded machine, and that is no failure.
relaxed = settings(deadline=None, max_examples=40)
SIZES = ((4, 4), (2, 2), (1, 1), (3, 5), (2, 3), (4, 4))
HEADS, WIDTH, TOKENS = 2, 8, 7


@dataclass(frozen=True)
class Site:
    """What goes into one cross-attention; subjects at tokens (row of the batch, subject)."""

    size: tuple[int, int]
    query: Tensor
    key: Tensor
    value: Tensor
    subjects: tuple[SiteSubject, ...]

    def base(self) -> Tensor:
        return attend(self.query, self.key, self.value)

    def run(self, claims: Claims | None, size: tuple[int, int] | None = None) -> Tensor:
        subjects: Any = self.subjects
        if claims is not None:
            subjects = SiteSubjects.apart(subjects, claims, size or self.size)
        return nested_attention(self.base(), self.query, self.key, self.value, subjects, HEADS)


def call(
    separation: Separation, rows: int = 5, subjects: int = 2, memory: Memory | None = None
) -> Claims:
    """One model call; with a memory, the next one of its run."""
    memory = {} if memory is None else memory
    return Claims(separation, [f"row {row}" for row in range(rows)], range(subjects), memory)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by the definition."""
    out = torch.zeros_like(query)
    for head in range(HEADS):
        here = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        logits = query[..., here] @ key[..., here].mT / math.sqrt(WIDTH // HEADS)
        out[..., here] = logits.softmax(-1) @ value[..., here]
    return out


def site(
    size: tuple[int, int], positions: list[list[int]], seed: int, weights: tuple[float, ...] = ()
) -> Site:
    """positions[row][subject], -1 where it is not in the row."""
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64) * scale

    rows, count = len(positions), len(positions[0])
    at = torch.tensor(positions)
    return Site(
        size,
        noise(rows, size[0] * size[1], WIDTH, scale=2.0),
        noise(rows, TOKENS, WIDTH),
        noise(rows, TOKENS, WIDTH),
        tuple(
            SiteSubject(
                noise(1, 3, WIDTH),
                noise(1, 3, WIDTH),
                at[:, number : number + 1],
                strength=1.0 - 0.25 * number,
                norm=NormControl("none"),
                token_weight=weights[number] if weights else 1.0,
            )
            for number in range(count)
        ),
    )


def dense_share(at: Site, number: int) -> Tensor:
    """The mean over heads of P_s with the token weights on the logits, times the mask: (B, N)."""
    rows, queries = at.query.shape[:2]
    claim = torch.zeros(rows, queries, dtype=at.query.dtype)
    for row in range(rows):
        if at.subjects[number].positions[row] < 0:
            continue
        for n in range(queries):
            for head in range(HEADS):
                here = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                scores = at.key[row][:, here] @ at.query[row, n, here] / math.sqrt(WIDTH // HEADS)
                for other in at.subjects:
                    token = int(other.positions[row])
                    if token >= 0:
                        mask = 1.0 if other.mask is None else float(other.mask[0, n])
                        scores[token] += mask * math.log(other.token_weight)
                token = int(at.subjects[number].positions[row])
                claim[row, n] += scores.softmax(0)[token] / HEADS
    mask = at.subjects[number].mask
    return claim if mask is None else claim * mask


def dense_resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of all cells that a cell touches."""
    (h, w), (rows, columns) = image.shape, size
    out = image.new_zeros(size)
    for y in range(rows):
        for x in range(columns):
            ys = slice(y * h // rows, -(-(y + 1) * h // rows))
            xs = slice(x * w // columns, -(-(x + 1) * w // columns))
            out[y, x] = image[ys, xs].mean()
    return out


def dense_smoothed(
    maps: list[Tensor], size: tuple[int, int], smoothing: float, before: Tensor | None = None
) -> Tensor:
    """The mean of maps (h, w), each older one counting less by the factor `smoothing`; one of the
    step before as if it had been seen for ever."""
    weights = [smoothing ** (len(maps) - 1 - k) for k in range(len(maps))]
    if before is not None:
        maps, weights = [before, *maps], [smoothing ** len(maps) / (1 - smoothing), *weights]
    parts = [w * dense_resized(m, size) for w, m in zip(weights, maps, strict=True)]
    return sum(parts) / sum(weights)  # type: ignore[operator,return-value]


Before = dict[tuple[int, int], Tensor]  # (row, subject) -> map


def dense_sites(
    sites: list[Site], separation: Separation, before: Before | None = None
) -> list[Tensor]:
    """The outputs of sites one after another, query by query; all subjects without norm control."""
    count = len(sites[0].subjects)
    before = before or {}
    seen: list[list[Tensor]] = [[] for _ in range(count)]
    outputs = []
    for at in sites:
        for number in range(count):
            seen[number].append(dense_share(at, number))
        out = at.base()
        weighted = torch.zeros_like(out)
        for row in range(len(out)):
            present = [n for n in range(count) if int(at.subjects[n].positions[row]) >= 0]
            claims = {}
            for number in present:
                maps = [
                    claim[row].reshape(s.size)
                    for claim, s in zip(seen[number], sites, strict=False)
                ]
                seed = before.get((row, number))
                claims[number] = dense_smoothed(maps, at.size, separation.smoothing, seed).flatten()
                mask = at.subjects[number].mask
                if mask is not None:
                    claims[number] = claims[number] * mask[0]
                claims[number] = claims[number] / claims[number].mean()
            for n in range(out.shape[1]):
                for head in range(HEADS):
                    here = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                    weighted[row, n, here] = dense_query(at, row, n, here, claims, separation)
        outputs.append(weighted)
    return outputs


def dense_query(
    at: Site, row: int, n: int, here: slice, claims: dict[int, Tensor], separation: Separation
) -> Tensor:
    """One query in one head: the outer softmax over values of which the subjects' are replaced."""
    q = at.query[row, n, here]
    scale = math.sqrt(WIDTH // HEADS)
    scores = at.key[row][:, here] @ q / scale
    values = at.value[row][:, here].clone()
    total = sum(float(claims[number][n]) ** 2 for number in claims)
    for number in claims:
        subject = at.subjects[number]
        token = int(subject.positions[row])
        mask = 1.0 if subject.mask is None else float(subject.mask[0, n])
        scores[token] += mask * math.log(subject.token_weight)
        factor = 1.0
        if len(claims) > 1 and separation.assignment == "soft":
            factor = float(claims[number][n]) ** 2 / total
        if len(claims) > 1 and separation.assignment == "exclusive":
            owner = max(
                claims, key=lambda other: float(claims[other][n])
            )  # the first of equal ones
            factor = float(number == owner)
        inner = (subject.key[0][:, here] @ q / scale).softmax(0) @ subject.value[0][:, here]
        amount = factor * subject.strength * mask
        values[token] = values[token] + amount * (inner - values[token])
    return scores.softmax(0) @ values


def some_sites(positions: list[list[int]], weights: tuple[float, ...] = ()) -> list[Site]:
    return [site(size, positions, 10 + k, weights) for k, size in enumerate(SIZES)]


# Rows with two subjects, one, none, and two whose tokens are elsewhere.
ROWS = [[1, 3], [2, -1], [-1, -1], [-1, 4], [5, 2]]


@pytest.mark.parametrize("assignment", ["soft", "exclusive"])
@pytest.mark.parametrize("weights", [(), (3.0, 0.5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_sites_one_after_another_are_the_dense_formula(
    assignment: Any, weights: tuple[float, ...], smoothing: float
) -> None:
    separation = Separation(assignment, smoothing=smoothing)
    claims, sites = call(separation), some_sites(ROWS, weights)
    for found, expected in zip(
        [at.run(claims) for at in sites], dense_sites(sites, separation), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-10)
    # It is another result than without.
    assert not torch.allclose(sites[0].run(None)[0], sites[0].run(call(separation))[0])


@given(
    st.integers(2, 4).flatmap(
        lambda count: st.lists(
            st.permutations([-1, -1, *range(1, TOKENS)]).map(lambda row: row[:count]),
            min_size=1,
            max_size=3,
        )
    ),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    st.sampled_from(["soft", "exclusive"]),
    st.sampled_from([0.0, 0.5, 0.9]),
)
@relaxed
def test_any_rows_subjects_and_sizes(
    positions: list[list[int]], sizes: list[tuple[int, int]], assignment: Any, smoothing: float
) -> None:
    separation = Separation(assignment, smoothing=smoothing)
    sites = [site(size, positions, k) for k, size in enumerate(sizes)]
    claims = call(separation, len(positions), len(positions[0]))
    expected = dense_sites(sites, separation)
    for at, dense in zip(sites, expected, strict=True):
        assert torch.allclose(at.run(claims), dense, atol=1e-10)


@pytest.mark.parametrize("assignment", ["off", "soft", "exclusive"])
def test_rows_with_fewer_than_two_subjects_come_back_bit_for_bit(assignment: Any) -> None:
    separation, memory = Separation(assignment, bounded=True), {}
    claims = call(separation, memory=memory)
    for at in some_sites(ROWS):
        without, found = at.run(None), at.run(claims)
        assert torch.equal(found[1:4], without[1:4])
        if assignment == "off":
            assert torch.equal(found, without)
    assert {row for row, _ in memory} == {"row 0", "row 4"}
    memory = {}
    alone = call(separation, 2, memory=memory)
    for at in some_sites([[1, -1], [-1, 2]]):
        assert torch.equal(at.run(alone), at.run(None))
    assert not memory and call(separation, 2, memory=memory).labels((2, 2)) is None


def test_a_mask_decides_where_a_subject_is_in_the_race() -> None:
    """Outside its own mask a subject claims nothing, and the other one has all, to the bit."""
    sites = []
    for k, size in enumerate([(4, 4), (4, 4), (2, 2)]):
        at = site(size, [[1, 3]], 20 + k, (4.0, 2.0))
        mask = torch.zeros(1, *size, dtype=torch.float64)
        mask[..., : size[1] // 2] = 1
        masked = replace(at.subjects[0], mask=mask.flatten(1))
        sites.append(replace(at, subjects=(masked, at.subjects[1])))
    separation = Separation("soft", smoothing=0.5)
    claims, expected = call(separation, 1), dense_sites(sites, separation)
    for at, dense in zip(sites, expected, strict=True):
        found = at.run(claims)
        assert torch.allclose(found, dense, atol=1e-10)
        beyond = at.subjects[0].mask[0] == 0  # type: ignore[index]
        assert torch.equal(found[:, beyond], at.run(None)[:, beyond])
        assert not torch.allclose(found[:, ~beyond], at.run(None)[:, ~beyond])


def test_a_site_of_unknown_size_speaks_for_itself() -> None:
    separation = Separation("soft")
    claims, (first, second) = call(separation, 1), [site((3, 3), [[1, 2]], k) for k in range(2)]
    first.run(claims)
    found = second.run(claims, (2, 2))
    assert torch.allclose(found, dense_sites([second], separation)[0], atol=1e-10)
    assert torch.equal(found, second.run(call(separation, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("assignment", ["soft", "exclusive"])
def test_other_precisions(dtype: torch.dtype, assignment: Any) -> None:
    separation = Separation(assignment)
    (at,) = [site((3, 4), [[1, 3], [4, 2]], 3)]
    low = replace(
        at,
        query=at.query.to(dtype),
        key=at.key.to(dtype),
        value=at.value.to(dtype),
        subjects=tuple(
            replace(s, key=s.key.to(dtype), value=s.value.to(dtype)) for s in at.subjects
        ),
    )
    found = low.run(call(separation, 2))
    assert found.dtype == dtype
    expected = dense_sites([at], separation)[0]
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}[dtype]
    assert (found.double() - expected).abs().quantile(0.95) < tolerance


def test_assignments_add_up_to_one_and_a_lone_claim_is_one() -> None:
    claims = torch.rand(3, 2, 50, generator=torch.Generator().manual_seed(0)) * 1e-20
    claims[:, 0, 0] = torch.tensor([0.0, 1e-30, 0.0])
    claims[:, 0, 1] = 0
    for exclusive in (False, True):
        found = assigned(claims, exclusive)
        assert torch.allclose(found.sum(0), torch.ones(2, 50))
        assert found[:, 0, 0].tolist() == [0, 1, 0]
    equal = assigned(torch.ones(2, 1), True)
    assert equal.flatten().tolist() == [1, 0]


def test_a_running_map_keeps_the_resolution_of_each_site() -> None:
    running = RunningMap(0.5)
    fine = torch.rand(2, 6, 4, dtype=torch.float64)
    running.add(fine)
    assert torch.equal(running.at((6, 4)), fine)
    running.add(torch.full((2, 3, 2), 0.25, dtype=torch.float64))
    assert torch.allclose(running.at((6, 4)), (0.5 * fine + 0.25) / 1.5)
    assert running.finest == (6, 4) and running.at((3, 2), slice(1, 2)).shape == (1, 3, 2)
    later = RunningMap(0.5, fine)
    assert torch.allclose(later.at((6, 4)), fine)
    later.add(torch.full((2, 3, 2), 0.25, dtype=torch.float64))
    assert torch.allclose(later.at((6, 4)), (fine + 0.25) / 2)


def dense_bounded(at: Site, labels: Tensor) -> Tensor:
    """Self-attention with one mask (N, N) a row."""
    rows = []
    for row, places in enumerate(labels):
        query, key, value = (t[row] for t in (at.query, at.key, at.value))
        hidden = (places[:, None] != places[None]) & (places[:, None] >= 0) & (places[None] >= 0)
        out = torch.zeros_like(query)
        for head in range(HEADS):
            here = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            logits = query[:, here] @ key[:, here].T / math.sqrt(WIDTH // HEADS)
            out[:, here] = logits.masked_fill(hidden, -math.inf).softmax(-1) @ value[:, here]
        rows.append(out)
    return torch.stack(rows)


def self_attention(rows: int, queries: int, seed: int = 0) -> Site:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(rows, queries, WIDTH, generator=g, dtype=torch.float64) for _ in range(3)
    )
    return Site((1, queries), q, k, v, ())


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(-1, 2), min_size=n, max_size=n), min_size=1, max_size=4
        )
    ),
    st.booleans(),
)
@relaxed
def test_bounded_self_attention_is_the_masked_one(labels: list[list[int]], replaced: bool) -> None:
    places = torch.tensor(labels)
    at = self_attention(*places.shape)
    below = torch.zeros(()) if replaced else torch.randn(at.query.shape, dtype=torch.float64)
    base = at.base() + below
    kept = base.clone()
    found = bounded_attention(base, at.query, at.key, at.value, places, attend, replaced)
    assert torch.allclose(found, dense_bounded(at, places) + below, atol=1e-10)
    assert torch.equal(base, kept)
    several = [len({p for p in row if p >= 0}) > 1 for row in labels]
    for row, bounded in enumerate(several):
        untouched = places[row] < 0 if bounded else torch.ones_like(places[row], dtype=torch.bool)
        assert torch.equal(found[row, untouched], base[row, untouched])
    if not any(several):
        assert found is base


def test_what_lies_in_another_region_cannot_be_seen() -> None:
    """The values of one region changed altogether: the other one stays as it is, bit for bit."""
    places = torch.tensor([[0, 0, 1, 1, 1, BACKGROUND]])
    at = self_attention(1, 6)

    def run(value: Tensor) -> Tensor:
        base = attend(at.query, at.key, value)
        return bounded_attention(base, at.query, at.key, value, places, attend, True)

    changed = at.value.clone()
    changed[:, 2:5] += 100
    before, after = run(at.value), run(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert bool((before[:, 2:] != after[:, 2:]).any(-1).all())


def test_regions_are_where_a_word_is_looked_at_most() -> None:
    first = torch.tensor([[0.8, 0.5, 0.1], [0.6, 0.1, 0.3]])
    second = torch.tensor([[0.1, 0.6, 0.2], [0.3, 0.1, 0.5]])
    found = regions(torch.stack([first, second])[:, None], 0.5)
    assert found.tolist() == [[[0, 1, BACKGROUND], [0, BACKGROUND, 1]]]
    # The same with one word that gets half the attention of the other everywhere.
    assert torch.equal(regions(torch.stack([first, second / 2])[:, None], 0.5), found)
    for flat in (0.0, 0.3):
        assert bool((regions(torch.full((2, 1, 2, 2), flat), 0.5) == BACKGROUND).all())


@given(st.integers(1, 3), st.integers(1, 3), st.floats(0.05, 1.0))
@relaxed
def test_regions_place_by_place(rows: int, count: int, least: float) -> None:
    maps = torch.rand(count, rows, 3, 4, generator=torch.Generator().manual_seed(rows + count))
    found = regions(maps, least)
    for row in range(rows):
        means = [float(maps[s, row].mean()) for s in range(count)]
        for y in range(3):
            for x in range(4):
                owner = max(range(count), key=lambda s: float(maps[s, row, y, x]) / means[s])
                values = maps[owner, row]
                lowest, largest = float(values.min()), float(values.max())
                enough = float(values[y, x]) >= lowest + least * (largest - lowest) - 1e-7
                assert int(found[row, y, x]) == (owner if enough else BACKGROUND)


@pytest.mark.parametrize("assignment", ["off", "soft"])
def test_a_step_goes_on_from_the_one_before(assignment: Any) -> None:
    """Its claims begin with what that one ended with, and its regions are made of that."""
    separation, memory = Separation(assignment, True, smoothing=0.6, region=0.7), {}
    sites = some_sites(ROWS)
    first = call(separation, memory=memory)
    for at in sites:
        at.run(first)
        assert first.labels((2, 2)) is None
    size = (4, 4)  # of the last of the finest sites

    def ended(row: int, number: int) -> Tensor:
        maps = [dense_share(at, number)[row].reshape(at.size) for at in sites]
        return dense_smoothed(maps, size, 0.6)

    before = {(row, number): ended(row, number) for row in (0, 4) for number in range(2)}
    later = [site(shape, ROWS, 40 + k) for k, shape in enumerate(SIZES)]
    # The same rows in another order and beside a new one.
    order = [4, 1, 0]
    second = Claims(separation, ["row 4", "new", "row 0"], range(2), memory)
    moved = [
        replace(
            at,
            query=at.query[order],
            key=at.key[order],
            value=at.value[order],
            subjects=tuple(replace(s, positions=s.positions[order]) for s in at.subjects),
        )
        for at in later
    ]
    expected = dense_sites(later, separation, before)
    labels = second.labels((3, 5))
    for at, dense in zip(moved, expected, strict=True):
        assert torch.allclose(at.run(second), dense[order], atol=1e-10)
    assert labels is not None and labels.device.type == "cpu"
    assert second.labels((3, 5)) is labels
    for place, row in ((0, 4), (2, 0)):
        maps = torch.stack([dense_resized(before[row, number], (3, 5)) for number in range(2)])
        assert torch.equal(labels[place], regions(maps[:, None], 0.7).flatten())
        assert len(set(labels[place].tolist())) > 1
    assert bool((labels[1] == BACKGROUND).all())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"assignment": "hard"}, '"hard" is unknown; use "off", "soft" or "exclusive"'),
        ({"start_percent": 0.6, "end_percent": 0.5}, "from 0.6 to 0.5; give a start and an end"),
        ({"smoothing": 1.0}, "The smoothing is 1.0; give"),
        ({"region": 0.0}, "The region is 0.0; give"),
        ({"region": math.nan}, "The region is nan; give"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(NestedAttentionError, match=message):
        Separation(**wrong)
