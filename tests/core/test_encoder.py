"""Resampler, projections and encoder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nested_attn_core.encoder import EncoderConfig, NestedEncoder, Site
from nested_attn_core.errors import NestedAttentionError

relaxed = settings(deadline=None, max_examples=60)

SITES = (Site("input", 1, 0, 8), Site("input", 1, 1, 8), Site("middle", 0, 0, 12))
CONFIG = EncoderConfig(
    feature_dim=10, tokens=4, token_dim=6, width=8, depth=2, heads=2, head_dim=3, ff_mult=2,
    sites=SITES,
)  # fmt: skip

small = st.integers(1, 9)
sites = st.lists(
    st.builds(Site, st.sampled_from(["input", "middle", "output"]), st.integers(0, 11),
              st.integers(0, 3), small),
    min_size=1, max_size=5, unique_by=lambda site: site.key,
).map(tuple)  # fmt: skip
configs = st.builds(
    EncoderConfig, small, small, small, small, st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 5), st.integers(1, 3), sites,
)  # fmt: skip


def seeded(config: EncoderConfig = CONFIG, seed: int = 0, **options) -> NestedEncoder:
    torch.manual_seed(seed)
    return NestedEncoder(config, **options)


@relaxed
@given(configs, st.integers(1, 3), st.integers(1, 7), st.integers(1, 5))
def test_shapes_follow_the_configuration(config, batch, patches, joined) -> None:
    encoder = NestedEncoder(config)
    tokens = encoder(torch.randn(batch, patches, config.feature_dim))
    assert tokens.shape == (batch, config.tokens, config.token_dim)
    pairs = encoder.keys_values(torch.randn(1, joined, config.token_dim))
    assert list(pairs) == [site.name for site in config.sites]
    for site in config.sites:
        assert [t.shape for t in pairs[site.name]] == [(1, joined, site.width)] * 2


@relaxed
@given(configs)
def test_a_configuration_survives_json(config) -> None:
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_patch_of_the_image_reaches_every_token() -> None:
    encoder = seeded()
    features = torch.randn(1, 5, 10, requires_grad=True)
    tokens = encoder(features)
    for token in range(CONFIG.tokens):
        (gradient,) = torch.autograd.grad(tokens[0, token, 0], features, retain_graph=True)
        assert (gradient[0].abs().amax(-1) > 0).all()


def test_tokens_differ_from_each_other_and_between_images() -> None:
    tokens = seeded()(torch.randn(2, 5, 10))
    assert (tokens[0] - tokens[1]).abs().amax(-1).min() > 1e-3
    assert (tokens[0, 1:] - tokens[0, :1]).abs().amax(-1).min() > 1e-3


def test_tokens_take_note_of_each_other() -> None:
    encoder = seeded()
    tokens = encoder(torch.randn(1, 5, 10))
    (gradient,) = torch.autograd.grad(tokens[0, 1, 0], encoder.resampler.queries)
    assert (gradient[0].abs().amax(-1) > 0).all()


def test_images_of_a_batch_do_not_mix() -> None:
    encoder = seeded(dtype=torch.float64)
    features = torch.randn(3, 5, 10, dtype=torch.float64)
    alone = torch.cat([encoder(one[None]) for one in features])
    torch.testing.assert_close(encoder(features), alone, rtol=0, atol=1e-12)


def test_the_order_of_patches_does_not_matter() -> None:
    encoder = seeded(dtype=torch.float64)
    features = torch.randn(1, 5, 10, dtype=torch.float64)
    turned = encoder(features.flip(1))
    torch.testing.assert_close(encoder(features), turned, rtol=0, atol=1e-12)


def test_the_same_seed_gives_the_same_encoder_and_tokens() -> None:
    features = torch.randn(1, 5, 10)
    one, other, third = seeded(seed=1), seeded(seed=1), seeded(seed=2)
    assert torch.equal(one(features), other(features))
    assert torch.equal(one(features), one(features))
    assert not torch.equal(one(features), third(features))


def test_every_weight_takes_part() -> None:
    encoder = seeded()
    tokens = encoder(torch.randn(2, 5, 10))
    pairs = encoder.keys_values(tokens)
    # Squares, because a plain sum is blind to a layer norm's input.
    sum((k.square() + v.square()).sum() for k, v in pairs.values()).backward()  # type: ignore
    still = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_init_from_copies_the_base_models_projections() -> None:
    encoder = seeded()
    weights = {s.name: (torch.randn(s.width, 6), torch.randn(s.width, 6)) for s in SITES}
    before = {name: tensor.clone() for name, tensor in encoder.resampler.state_dict().items()}
    encoder.projections.init_from(weights)
    tokens = torch.randn(2, 4, 6)
    for name, (key, value) in encoder.keys_values(tokens).items():
        torch.testing.assert_close(key, tokens @ weights[name][0].T)
        torch.testing.assert_close(value, tokens @ weights[name][1].T)
    after = encoder.resampler.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_init_from_copies_and_does_not_share() -> None:
    encoder = seeded()
    weights = {s.name: (torch.randn(s.width, 6), torch.randn(s.width, 6)) for s in SITES}
    encoder.projections.init_from(weights)
    weights["middle.0.0"][0].zero_()
    assert encoder.projections.at("middle.0.0").to_k.weight.any()


@pytest.mark.parametrize("problem", ["missing", "misfit"])
def test_init_from_refuses_another_base_and_changes_nothing(problem) -> None:
    encoder = seeded()
    weights = {s.name: (torch.randn(s.width, 6), torch.randn(s.width, 6)) for s in SITES}
    if problem == "missing":
        del weights["middle.0.0"]
        message = "no cross-attention at middle.0.0; build the encoder"
    else:
        weights["middle.0.0"] = torch.randn(12, 6), torch.randn(12, 7)
        message = r"middle.0.0 has shape \(12, 7\); the encoder needs \(12, 6\)"
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(NestedAttentionError, match=message):
        encoder.projections.init_from(weights)
    after = encoder.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


class Marked:
    """Operations that can be told from torch's own."""

    class Linear(nn.Linear):
        pass

    class LayerNorm(nn.LayerNorm):
        pass


def test_every_layer_comes_from_the_operations_given() -> None:
    encoder = NestedEncoder(CONFIG, Marked)
    leaves = [m for m in encoder.modules() if m._parameters and not list(m.children())]
    assert len(leaves) > 20
    assert {type(leaf) for leaf in leaves} == {Marked.Linear, Marked.LayerNorm}
    bare = [n for n, _ in encoder.named_parameters() if not n.endswith((".weight", ".bias"))]
    assert bare == ["resampler.queries"]


def test_dtype_and_device_are_obeyed() -> None:
    encoder = NestedEncoder(CONFIG, dtype=torch.bfloat16, device="meta")
    kinds = {(p.dtype, p.device.type) for p in encoder.parameters()}
    assert kinds == {(torch.bfloat16, "meta")}


def test_tensors_are_named_as_the_file_format_says() -> None:
    names = set(seeded().state_dict())
    pairs = {f"projections.{s.name}.{part}.weight" for s in SITES for part in ("to_k", "to_v")}
    assert {name for name in names if name.startswith("projections.")} == pairs
    assert all(name.startswith(("resampler.", "projections.")) for name in names)


def test_a_sites_name_and_key() -> None:
    site = Site("output", 3, 1, 640)
    assert (site.name, site.key) == ("output.3.1", ("output", 3, 1))


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(NestedAttentionError, match="no projection for the site input.9.0"):
        seeded().projections.at("input.9.0")


@pytest.mark.parametrize("shape", [(1, 5, 11), (5, 10), (1, 0, 10)])
def test_features_of_another_backbone_are_refused(shape) -> None:
    with pytest.raises(NestedAttentionError, match=r"needs \(images, patches, 10\), so load"):
        seeded()(torch.zeros(shape))


@pytest.mark.parametrize("name", [n for n in CONFIG.to_dict() if n != "sites"])
@pytest.mark.parametrize("size", [0, -1, 1.5, "4", True, None, 1 << 40])
def test_senseless_sizes_are_refused(name, size) -> None:
    with pytest.raises(NestedAttentionError, match=f"The encoder's {name} is .* whole number"):
        replace(CONFIG, **{name: size})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((), "names no cross-attention site"),
        ((SITES[0], replace(SITES[0], width=4)), "names a site twice"),
        (tuple(replace(SITES[0], number=n) for n in range(1025)), "names 1025 cross-attention"),
        ((replace(SITES[0], block="side"),), "block 'side'; known are input, middle, output"),
        ((replace(SITES[0], number=-1),), "A site's number is -1"),
        ((replace(SITES[0], index="0"),), "A site's index is '0'"),
        ((replace(SITES[0], width=0),), "width at input.1.0 is 0"),
    ],
)
def test_senseless_sites_are_refused(bad, message) -> None:
    with pytest.raises(NestedAttentionError, match=message):
        replace(CONFIG, sites=bad)


@pytest.mark.parametrize("damage", ["tokens", "sites", "a site's width", "no dictionary"])
def test_a_configuration_with_a_part_missing_is_refused(damage) -> None:
    data = CONFIG.to_dict()
    if damage == "a site's width":
        del data["sites"][0]["width"]
    elif damage == "no dictionary":
        data["sites"] = [3]
    else:
        del data[damage]
    with pytest.raises(NestedAttentionError, match="configuration cannot be read"):
        EncoderConfig.from_dict(data)
