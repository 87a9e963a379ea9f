"""Separate Subjects in real runs: what it leaves alone to the bit, and what it does at a site."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

from .compatibility.conftest import node_class
from .conftest import World, counted, differs, pack

TEXT = "a photo of a <anna> and a <rex> on a beach"
HEADS = 4


def separate(host: Any, model: Any, assignment: str = "soft", bounded: bool = True, **more: Any):
    node = host.NODE_CLASS_MAPPINGS["NestedAttentionSeparate"]
    return node.execute(model, assignment, bounded, **more).result[0]


def applied(world: World, masks: Any = (None, None), **settings: Any) -> tuple[Any, Any]:
    subjects = pack("nested_attn_core.subject").Subjects.of
    anna = world.subject(token_weight=6.0, mask=masks[0])
    rex = world.subject("rex", 5, "dog", token_weight=8.0, mask=masks[1])
    return world.apply(subjects(anna, rex), **settings)


def draw(
    world: World, model: Any, clip: Any, text: str = TEXT, negative: str = "blurry", **options: Any
) -> Tensor:
    pair = world.encode(text, clip), world.encode(negative, clip)
    return world.sample(*pair, model, **{"steps": 2, "size": (8, 8), **options})


@dataclass
class Sites:
    """What went into and came out of each site of a run, in order."""

    cross: list[dict[str, Any]] = field(default_factory=list)
    own: list[dict[str, Any]] = field(default_factory=list)

    def watch(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A clone whose sites are watched."""
        patch, attention = pack("nodes.host.patch"), pack("nested_attn_core.attention")
        separating = pack("nodes.host.separating")
        clone, bounded = model.clone(), separating.bounded_attention

        def cross(base, query, key, value, items, heads):
            out = attention.nested_attention(base, query, key, value, items, heads)
            given = {"base": base, "query": query, "key": key, "value": value, "heads": heads}
            self.cross.append({**given, "items": items, "out": out})
            return out

        def own(base, query, key, value, labels, attend, replace):
            out = bounded(base, query, key, value, labels, attend, replace)
            given = {"base": base, "query": query, "key": key, "value": value, "labels": labels}
            self.own.append({**given, "after": len(self.cross), "out": out})
            return out

        for site in pack("nodes.host.sites").discover_sites(clone.model.diffusion_model):
            clone.set_model_attn2_replace(patch.NestedPatch(site.name, attend=cross), *site.key)
        monkeypatch.setattr(separating, "bounded_attention", own)
        return clone


def heads_apart(tensor: Tensor) -> Tensor:
    return tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def dense_claims(site: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """The outer attention with token weights, (B, heads, N, T), and each subject's claim."""
    q, k = heads_apart(site["query"]), heads_apart(site["key"])
    logits = q @ k.mT / q.shape[-1] ** 0.5
    columns = []
    for item in site["items"]:
        column = torch.zeros(len(k), k.shape[2], dtype=torch.bool)
        for row, found in enumerate(item.positions):
            column[row, found[found >= 0]] = True
        columns.append(column)
        logits = logits + column[:, None, None] * torch.tensor(item.token_weight).log()
    attention = logits.softmax(-1)
    return attention, [(attention * c[:, None, None]).sum(-1).mean(1) for c in columns]


def dense_map(claims: list[tuple[Tensor, tuple[int, int]]], size: Any, smoothing: float) -> Tensor:
    """The claims of all sites so far at one size, (B, h, w); of a first step."""
    total, weight = torch.zeros(()), 0.0
    for age, (claim, shape) in enumerate(reversed(claims)):
        resized = torch.nn.functional.interpolate(
            claim.unflatten(1, shape)[:, None], size=size, mode="area"
        )
        total, weight = total + smoothing**age * resized[:, 0], weight + smoothing**age
    return total / weight


def dense_site(site: dict[str, Any], attention: Tensor, factors: list[Tensor]) -> Tensor:
    """One site with factors (B, N) of the nested terms: the value of each query made whole."""
    q, v = heads_apart(site["query"]), heads_apart(site["value"])
    out = attention @ v
    for item, factor in zip(site["items"], factors, strict=True):
        k = heads_apart(item.key.expand(len(q), -1, -1))
        nested = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ heads_apart(item.value)
        length = torch.linalg.vector_norm(nested.transpose(1, 2).flatten(2), dim=-1)
        for slot in range(item.positions.shape[1]):
            for row in (item.positions[:, slot] >= 0).nonzero().flatten().tolist():
                token = int(item.positions[row, slot])
                text = v[row, :, token]  # (heads, d)
                star = nested[row] * (item.norm.factor * text.norm() / length[row])[None, :, None]
                amount = attention[row, :, :, token] * factor[row] * item.strength
                out[row] += amount[..., None] * (star - text[:, None])
    return out.transpose(1, 2).flatten(2)


def sizes_of(sites: Sites) -> list[tuple[int, int]]:
    return [site["items"].size for site in sites.cross]


def near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < 2e-4 * expected.std())


# The shorter context is repeated for the longer one: a subject has two positions then.
LONG = "blurry " * 80


@pytest.mark.parametrize("assignment", ["soft", "exclusive"])
@pytest.mark.parametrize(
    ("options", "latent"), [({}, (10, 16)), ({"batch": 2}, (9, 12)), ({"negative": LONG}, (16, 9))]
)
def test_each_site_of_a_run_is_the_dense_formula(
    sd15: World,
    host: Any,
    monkeypatch: pytest.MonkeyPatch,
    assignment: str,
    options: Any,
    latent: Any,
) -> None:
    model, clip = applied(sd15)
    sites, smoothing = Sites(), 0.6
    watched = sites.watch(separate(host, model, assignment, True, smoothing=smoothing), monkeypatch)
    draw(sd15, watched, clip, size=latent, steps=1, **options)
    assert len(sites.cross) == 16
    seen: list[list[Any]] = [[], []]
    for site, size in zip(sites.cross, sizes_of(sites), strict=True):
        rows = (site["items"][0].positions >= 0).any(1)
        assert rows.sum() == options.get("batch", 1) and len(rows) == 2 * rows.sum()
        attention, claims = dense_claims(site)
        maps = []
        for number, claim in enumerate(claims):
            seen[number].append((claim, size))
            maps.append(dense_map(seen[number], size, smoothing).flatten(1))
        first, second = (each / each.mean(1, keepdim=True) for each in maps)
        share = first**2 / (first**2 + second**2)
        if assignment == "exclusive":
            share = (first >= second).to(first)
        expected = dense_site(site, attention, [share, 1 - share])
        # Where two claims are nearly equal, rounding decides; there are few such queries.
        tie = (first - second).abs() < 1e-5 * first
        assert tie[rows].float().mean() < 0.1
        assert near(site["out"][rows][~tie[rows]], expected[rows][~tie[rows]])
        assert torch.equal(site["out"][~rows], site["base"][~rows])


def dense_bounded(own: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Self-attention with a mask (B, N, N) of what is hidden, and this mask."""
    flat = own["labels"]
    hidden = (flat[:, :, None] != flat[:, None]) & (flat[:, :, None] >= 0) & (flat[:, None] >= 0)
    q, k, v = (heads_apart(own[name]) for name in ("query", "key", "value"))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    out = logits.masked_fill(hidden[:, None], -torch.inf).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2), hidden


@pytest.mark.parametrize("latent", [(8, 8), (9, 12)])
def test_self_attention_of_each_site_is_the_masked_one(
    sd15: World, host: Any, monkeypatch: pytest.MonkeyPatch, latent: Any
) -> None:
    """By regions of what all cross-attention of the step before has seen."""
    model, clip = applied(sd15)
    sites = Sites()
    model = separate(host, model, "off", True, smoothing=0.6, region=0.4)
    draw(sd15, sites.watch(model, monkeypatch), clip, size=latent, batch=2)
    assert len(sites.cross) == 32 and len(sites.own) == 16
    first, sizes = sites.cross[:16], sizes_of(sites)
    named = (first[0]["items"][0].positions >= 0).any(1)
    seen = [
        [(dense_claims(site)[1][number], size) for site, size in zip(first, sizes, strict=False)]
        for number in range(2)
    ]
    ended = [dense_map(each, max(sizes), 0.6) for each in seen]
    hidden_somewhere = 0
    for own in sites.own:
        shape = next(s for s in sizes if s[0] * s[1] == own["query"].shape[1])
        maps = torch.stack(
            [torch.nn.functional.interpolate(each[:, None], shape, mode="area") for each in ended]
        ).flatten(2)
        claims = maps / maps.mean(-1, keepdim=True)
        low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
        height = (maps - low) / (high - low)
        for number in range(2):
            # Rounding may decide where it is near.
            inside = (claims[number] > 1.001 * claims[1 - number]) & (height[number] > 0.401)
            outside = (claims[number] < 0.999 * claims[1 - number]) | (height[number] < 0.399)
            assert bool((own["labels"] == number)[named][inside[named]].all())
            assert not bool((own["labels"] == number)[outside].any())
        assert bool((own["labels"][~named] == -1).all())
        expected, hidden = dense_bounded(own)
        assert near(own["out"], expected)
        untouched = ~hidden.any(-1)
        assert torch.equal(own["out"][untouched], own["base"][untouched])
        hidden_somewhere += int(hidden.any())
    assert hidden_somewhere >= 8


def test_off_is_bit_for_bit_what_it_is_without_the_node(
    sd15: World, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip = applied(sd15)
    expected = draw(sd15, model, clip, batch=2)
    changed = [
        draw(sd15, separate(host, model, *how), clip, batch=2)
        for how in [("soft", False), ("exclusive", False), ("off", True), ("soft", True)]
    ]
    pictures = [expected, *changed]
    assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert torch.equal(draw(sd15, model, clip, batch=2), expected)
    # And nothing of it is ever made there.
    monkeypatch.setattr(pack("nodes.host.run"), "Claims", None)
    assert torch.equal(draw(sd15, separate(host, model, "off", False), clip, batch=2), expected)
    never = separate(host, model, "exclusive", True, start_percent=0.5, end_percent=0.5)
    assert torch.equal(draw(sd15, never, clip, batch=2), expected)
    assert torch.equal(draw(sd15, model, clip, batch=2), expected)


@pytest.mark.parametrize(
    "text", ["a photo of <anna>", "a photo of a cat", "<rex>, <rex> and <rex>"]
)
@pytest.mark.parametrize("assignment", ["soft", "exclusive"])
def test_fewer_than_two_subjects_in_a_prompt_change_nothing(
    world: World, host: Any, text: str, assignment: str
) -> None:
    model, clip = applied(world)
    apart = separate(host, model, assignment, True)
    options: dict[str, Any] = {"steps": 1, "size": (8, 8)}
    assert torch.equal(
        draw(world, apart, clip, text, **options), draw(world, model, clip, text, **options)
    )


def test_every_row_has_its_own_subjects(sd15: World, host: Any) -> None:
    """One batch of two prompts, of which one has a single subject, and areas beside it."""
    model, clip = applied(sd15)
    apart = separate(host, model, "exclusive", True)
    model, calls = counted(model)
    both, one = sd15.encode(TEXT, clip), sd15.encode("a photo of <anna>", clip)
    negative = sd15.encode("blurry", clip)
    area = host.ConditioningSetArea().append(both, 64, 128, 64, 0, 1.0)[0]

    def made(model: Any, positive: Any, **options: Any) -> Tensor:
        return sd15.sample(positive, negative, model, **{"steps": 2, **options})

    assert differs(made(apart, both + one), made(model, both + one))
    assert torch.equal(made(apart, one + one), made(model, one + one))
    with_area, without = (made(each, area + one, steps=1) for each in (apart, model))
    assert torch.equal(with_area[..., :8], without[..., :8])
    assert differs(with_area[..., 8:], without[..., 8:])
    assert calls[0] == 3
    # A row does not depend on its mates.
    batch, alone = made(apart, both, batch=2), made(apart, both)
    assert torch.allclose(batch[:1], alone, atol=1e-3 * float(alone.std()))


def one_byte(device: Any = None, torch_free_too: bool = False) -> Any:
    return (1, 1) if torch_free_too else 1


def test_split_batches_are_the_same_image(
    sd15: World, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip = applied(sd15)
    apart, calls = counted(separate(host, model, "soft", True))
    whole = draw(sd15, apart, clip, batch=2)
    assert calls == [4, 4]
    monkeypatch.setattr(comfy.model_management, "get_free_memory", one_byte)
    split = draw(sd15, apart, clip, batch=2)
    monkeypatch.undo()
    assert calls[2:] == [2] * 4
    assert torch.allclose(whole, split, atol=1e-3 * float(whole.std()))


def test_a_subject_in_a_second_chunk_of_the_prompt(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    text = "a photo of <anna>, " + "very detailed " * 45 + "and a <rex>"
    apart = separate(host, model, "exclusive", True)
    assert differs(draw(sd15, apart, clip, text), draw(sd15, model, clip, text))


def test_masks_that_do_not_overlap_have_decided(sd15: World, host: Any) -> None:
    left, right = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
    left[..., :32], right[..., 32:] = 1, 1
    model, clip = applied(sd15, (left, right))
    options: dict[str, Any] = {"size": (16, 16)}  # the smallest map has two columns
    expected = draw(sd15, model, clip, **options)
    for assignment in ("soft", "exclusive"):
        apart = separate(host, model, assignment, False)
        assert torch.equal(draw(sd15, apart, clip, **options), expected)
    bounded = separate(host, model, "off", True)
    assert not torch.equal(draw(sd15, bounded, clip, **options), expected)


def test_it_acts_in_a_part_of_the_sampling(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    first = separate(host, model, "exclusive", True, end_percent=0.4)
    whole = separate(host, model, "exclusive", True)
    pictures = [draw(sd15, each, clip, steps=3) for each in (model, first, whole)]
    assert all(differs(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.mark.parametrize("separate_first", [True, False])
def test_before_or_after_apply_and_the_last_one_counts(
    sd15: World, host: Any, separate_first: bool
) -> None:
    model, clip = applied(sd15)
    expected = draw(sd15, separate(host, model, "exclusive", False), clip)
    if separate_first:
        model, clip = applied(sd15, model=separate(host, sd15.model, "exclusive", False))
    else:
        model = separate(host, separate(host, model, "soft", True), "exclusive", False)
    assert torch.equal(draw(sd15, model, clip), expected)


def test_what_came_in_stays_as_it_is_and_runs_repeat(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    before = draw(sd15, model, clip)
    apart = separate(host, model, "soft", True)
    options = {name: dict(part) for name, part in patches(apart).items()}
    first = draw(sd15, apart, clip)
    assert torch.equal(draw(sd15, apart, clip), first)
    assert patches(apart) == options and "attn1" not in options
    assert torch.equal(draw(sd15, model, clip), before)


def patches(model: Any) -> dict[str, dict[Any, Any]]:
    return model.model_options["transformer_options"].get("patches_replace", {})


def test_an_interrupted_run_leaves_nothing_patched(sd15: World, host: Any) -> None:
    from comfy.model_management import InterruptProcessingException

    model, clip = applied(sd15)
    apart = separate(host, model, "soft", True)
    expected, stopped, calls = draw(sd15, apart, clip), apart.clone(), []

    def stop(query: Tensor, key: Tensor, value: Tensor, extra_options: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptProcessingException
        return plain_attention(query, key, value, extra_options)

    stopped.set_model_attn1_replace(stop, "middle", 0, 0)
    with pytest.raises(InterruptProcessingException):
        draw(sd15, stopped, clip)
    assert list(patches(stopped)["attn1"].values()) == [stop]
    assert "attn1" not in patches(apart)
    assert torch.equal(draw(sd15, apart, clip), expected)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, extra_options: Any) -> Tensor:
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(query, key, value, extra_options["n_heads"])


@dataclass
class OtherPack:
    """Self-attention of another pack: plain attention and a term of its own."""

    calls: list[Any] = field(default_factory=list)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra_options: Any) -> Tensor:
        out = plain_attention(query, key, value, extra_options) + 0.1 * value
        self.calls.append((extra_options["block"], out))
        return out

    def __deepcopy__(self, memo: Any) -> OtherPack:
        return self


BLOCKS: list[tuple[Any, ...]] = [("output", 3, 0), ("middle", 0), ("input", 4, 0)]


@pytest.mark.parametrize("after", [True, False])
def test_self_attention_of_another_pack_is_called_and_keeps_its_term(
    sd15: World, host: Any, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    other, sites = OtherPack(), Sites()

    def put(model: Any) -> Any:
        clone = model.clone()
        for where in BLOCKS:
            clone.set_model_attn1_replace(other, *where)
        return clone

    if after:
        model, clip = applied(sd15)
        model, apart = put(model), put(separate(host, model, "off", True, region=0.4))
    else:
        model, clip = applied(sd15, model=put(sd15.model))
        apart = separate(host, model, "off", True, region=0.4)
    without = draw(sd15, model, clip)
    assert len(other.calls) == 2 * len(BLOCKS)
    other.calls.clear()
    found = draw(sd15, sites.watch(apart, monkeypatch), clip)
    assert len(other.calls) == 2 * len(BLOCKS)
    assert not torch.equal(found, without)
    bases = {id(own["base"]): own for own in sites.own}
    bounded = 0
    for _, out in other.calls[len(BLOCKS) :]:  # in the second step
        own = bases[id(out)]
        expected, hidden = dense_bounded(own)
        assert near(own["out"], expected + 0.1 * own["value"])
        bounded += int(hidden.any())
    assert bounded > 0


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("PerturbedAttentionGuidance", {"scale": 3.0}, False),
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}, False),
        ("TomePatchModel", {"ratio": 0.5}, True),
        (
            "HyperTile",
            {"tile_size": 64, "swap_size": 2, "max_depth": 0, "scale_depth": False},
            True,
        ),
    ],
)
def test_patches_of_the_host_on_self_attention(
    sd15: World,
    host: Any,
    kind: str,
    settings: dict[str, Any],
    told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They act beside it; where places cannot be told, one sentence of the run says so."""
    model, clip = applied(sd15)
    apart = separate(host, model, "off", True)

    def patch(model: Any) -> Any:
        found = node_class(host, kind).execute(model, **settings)
        return getattr(found, "result", found)[0]

    size: dict[str, Any] = {"size": (16, 16)}
    with caplog.at_level(logging.WARNING, "nested_attention"):
        found = draw(sd15, patch(apart), clip, **size)
    assert not torch.equal(found, draw(sd15, apart, clip, **size))
    said = [r.message for r in caplog.records if "self-attention, so that" in r.message]
    assert len(said) == int(told)
    # With one subject, it is as if the node were not there; token merging draws random numbers.
    pictures = []
    for each in (apart, model):
        torch.manual_seed(0)
        pictures.append(draw(sd15, patch(each), clip, "a photo of <anna>", steps=1, **size))
    assert torch.equal(*pictures)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(sd15: World, host: Any, dtype: torch.dtype) -> None:
    def run(how: Callable[[Any], Any]) -> Tensor:
        low = sd15.model.clone()
        low.set_model_compute_dtype(dtype)
        model, clip = applied(sd15, model=low)
        return draw(sd15, how(model), clip)

    model, clip = applied(sd15)
    whole = draw(sd15, separate(host, model, "soft", True), clip)
    found = run(lambda model: separate(host, model, "soft", True))
    assert bool(torch.isfinite(found).all())
    # Closer to the same in full precision than to none of it.
    assert (found - whole).std() < 0.5 * (run(lambda model: model) - whole).std()


def test_a_wrong_setting_is_one_sentence(sd15: World, host: Any) -> None:
    with pytest.raises(ValueError, match='"hard" is unknown; use "off", "soft" or "exclusive"'):
        separate(host, sd15.model, "hard")
