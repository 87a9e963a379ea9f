"""Watch Attention and Attention Maps: nothing changes, and what they show is where words look."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .conftest import World, counted, pack
from .test_bad_input import sentence

TEXT = "a <anna> and a <rex>"


def node(host: Any, name: str, *inputs: Any) -> Any:
    return host.NODE_CLASS_MAPPINGS[f"NestedAttention{name}"].execute(*inputs).result


def applied(world: World, **settings: Any) -> tuple[Any, Any]:
    subjects = pack("nested_attn_core.subject").Subjects.of
    anna, rex = world.subject(token_weight=8.0), world.subject("rex", 5, "dog")
    return world.apply(subjects(anna, rex), **settings)


def draw(world: World, model: Any, clip: Any, text: str = TEXT, **options: Any) -> torch.Tensor:
    positive, negative = world.encode(text, clip), world.encode("", clip)
    return world.sample(positive, negative, model, **{"steps": 3, **options})


@pytest.mark.parametrize("watch_first", [True, False])
def test_a_watched_run_makes_the_same_image(sd15: World, host: Any, watch_first: bool) -> None:
    model, clip = applied(sd15)
    expected = draw(sd15, model, clip, batch=2, size=(9, 16))
    if watch_first:
        watched, recorder = node(host, "Watch", sd15.model)
        model, clip = applied(sd15, model=watched)
    else:
        model, recorder = node(host, "Watch", model)
    model, calls = counted(model)
    assert torch.equal(draw(sd15, model, clip, batch=2, size=(9, 16)), expected)
    assert calls == [4] * 3
    assert recorder.record.names == ("anna", "rex")
    watch = pack("nodes.host.patch").WATCH
    assert watch not in model.model_options["transformer_options"]


def test_nothing_is_recorded_unless_it_is_wired(
    sd15: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = pack("nested_attn_core.recording")
    monkeypatch.setattr(recording.AttentionRecord, "add", None)
    draw(sd15, *applied(sd15))


def test_maps_are_the_attention_of_the_sites(sd15: World, host: Any) -> None:
    """One step, the finest layers: against a full softmax with the token weights on its logits."""
    seen: list[Any] = []
    patch, attention = pack("nodes.host.patch"), pack("nested_attn_core.attention")
    model, clip = applied(sd15)
    groups = pack("nodes.host.sites").site_groups(model.model.diffusion_model)

    def attend(base: Any, query: Any, key: Any, value: Any, items: Any, heads: int) -> Any:
        if query.shape[1] == 256:
            q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
            logits = q @ k.mT / q.shape[-1] ** 0.5
            for item in items:
                for row, places in enumerate(item.positions.tolist()):
                    logits[row, :, :, [p for p in places if p >= 0]] += torch.tensor(
                        item.token_weight
                    ).log()
            share = logits.softmax(-1).mean(1)
            row = int((items[0].positions >= 0).any(1).nonzero()[0])
            seen.append(share[row, :, items[0].positions[row]].sum(-1).reshape(16, 16))
        return attention.nested_attention(base, query, key, value, items, heads)

    for site in pack("nodes.host.sites").discover_sites(model.model.diffusion_model):
        model.set_model_attn2_replace(patch.NestedPatch(site.name, attend=attend), *site.key)
    model, recorder = node(host, "Watch", model)
    draw(sd15, model, clip, steps=1)
    looked, drawn = recorder.record.maps("anna", ("early",), ("fine",))
    assert len(seen) == sum(group == "fine" for group in groups.values())
    mean = torch.stack(seen).mean(0)
    expected = mean.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.allclose(looked[0], expected, atol=1e-5) and expected.std() > 1e-4
    # Each token's part of the share; together they are the share.
    assert drawn.shape == (4, 64, 64, 6)
    assert torch.allclose(drawn.sum(-1), looked, atol=1e-5)
    assert recorder.record.maps("anna", ("late",), ("fine",)) is None


def test_the_record_does_not_grow_with_steps(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    model, recorder = node(host, "Watch", model)
    draw(sd15, model, clip, steps=3)
    few = {key: sums.drawn.shape for key, sums in recorder.record._sums.items()}
    draw(sd15, model, clip, steps=9, batch=6)
    many = {key: sums.drawn.shape for key, sums in recorder.record._sums.items()}
    assert few == many and len(few) == 2 * 3 * 3


def test_an_area_is_seen_where_it_lies(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    model, recorder = node(host, "Watch", model)
    right = host.ConditioningSetArea().append(sd15.encode(TEXT, clip), 64, 128, 64, 0, 1.0)[0]
    sd15.sample(right + sd15.encode("a beach", clip), sd15.encode("", clip), model, steps=1)
    looked, _ = recorder.record.maps("rex", ("early",), ("coarse", "middle", "fine"))
    assert not looked[0, :, :32].any() and bool((looked[0, :, 32:] > 0).all())


def test_maps_as_pictures(sd15: World, host: Any) -> None:
    model, clip = applied(sd15)
    model, recorder = node(host, "Watch", model)
    pictures = torch.rand(2, 128, 96, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError) as error:
        node(host, "Maps", recorder, pictures, "all", "all")
    assert "No subject was watched" in sentence(error)
    draw(sd15, model, clip, batch=2, steps=1, size=(16, 12))
    maps, tokens, legend = node(host, "Maps", recorder, pictures, "all", "fine")
    assert maps.shape == tokens.shape == (4, 128, 96, 3) and legend.shape[0] == 1
    assert all(part.min() >= 0 and part.max() <= 1 for part in (maps, tokens, legend))
    assert not torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[1])
    with pytest.raises(ValueError) as error:
        node(host, "Maps", recorder, pictures, "late", "fine")
    assert "Nothing was recorded" in sentence(error)
