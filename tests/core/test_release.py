"""The authors' encoder under every plausible naming, and what is said of files that are not it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nested_attn_core.attention import NormControl
from nested_attn_core.checkpoint import (
    Backbone,
    load_encoder,
    read_info,
    read_release,
    save_encoder,
)
from nested_attn_core.errors import NestedAttentionError
from nested_attn_core.file_kinds import Header
from nested_attn_core.release.reading import read_structure
from nested_attn_core.release.report import summary, table
from release_files import (
    FULL_SDXL,
    PAIR_NAMES,
    PLACES,
    Release,
    State,
    all_namings,
    base_unet,
    named,
    release,
)

FAMILIES = ("sdxl", "sd15")
MADE = {family: release(family) for family in FAMILIES}
SAID = (
    '"model.safetensors" has no description of this pack and was read by its structure, but ',
    '; get the original file, or say in "model.mapping.json" what its tensors are '
    "(docs/weights.md).",
)


def written(folder: Path, state: State, dtype=torch.float32) -> Path:
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype).clone() for name, tensor in state.items()}, path)
    return path


def header(state: State, dtype: str = "F16") -> Header:
    return Header({}, {name: (dtype, tuple(t.shape)) for name, t in state.items()})


def mapped(folder: Path, **entries) -> None:
    (folder / "model.mapping.json").write_text(json.dumps(entries))


def check(path: Path, made: Release) -> None:
    """The file loads, and every tensor is where its place is in the host's names."""
    encoder, info = load_encoder(path)
    assert info == read_info(path)
    assert info.base_family == made.family
    assert {site.name for site in info.config.sites} == {p.site for p in PLACES[made.family]}
    for place, (key, value) in zip(made.places, made.pairs, strict=True):
        projection = encoder.projections.at(place.site)
        assert torch.equal(projection.to_k.weight, key.to(projection.to_k.weight.dtype))
        assert torch.equal(projection.to_v.weight, value.to(projection.to_v.weight.dtype))
    features = torch.randn(2, 7, made.resampler.proj_in.in_features)
    expected = made.resampler(features)
    assert expected.std() > 0.1
    assert torch.allclose(encoder(features), expected, atol=1e-5)


def refusal(path: Path) -> str:
    """What reading says; reading and loading say the same, in one sentence."""
    with pytest.raises(NestedAttentionError) as reading:
        read_info(path)
    with pytest.raises(NestedAttentionError) as loading:
        load_encoder(path)
    message = str(reading.value)
    assert message == str(loading.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    return message


def problem(path: Path) -> str:
    """The same without what every refusal of a release says around it."""
    message = refusal(path)
    assert message.startswith(SAID[0]) and message.endswith(SAID[1]), message
    return message.removeprefix(SAID[0]).removesuffix(SAID[1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairs", PAIR_NAMES)
def test_every_name_of_the_pairs_loads(tmp_path, family, pairs) -> None:
    check(written(tmp_path, named(MADE[family], pairs)), MADE[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairs", PAIR_NAMES)
def test_every_name_of_the_pairs_at_full_size(family, pairs) -> None:
    sizes = FULL_SDXL if family == "sdxl" else {**FULL_SDXL, "output": 768, "embedding": 1024}
    unit = 640 if family == "sdxl" else 320
    made = release(family, unit, "meta", **sizes)
    state = named(made, pairs)
    reading = read_structure(Path("model.safetensors"), header(state))
    assert reading is not None and reading.family == family
    c = reading.config
    assert (c.tokens, c.token_dim, c.feature_dim) == (1024, sizes["output"], sizes["embedding"])
    assert (c.width, c.depth, c.heads, c.head_dim, c.ff_mult) == (1280, 4, 20, 64, 4)
    assert {s.name: s.width for s in c.sites} == {p.site: unit * p.factor for p in made.places}
    for place, pair in zip(made.places, made.pairs, strict=True):
        for part, role in enumerate("kv"):
            source = reading.sources[f"projections.{place.site}.to_{role}.weight"]
            assert source.part == part if "fused" in pairs else state[source.name] is pair[part]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resampler_with_keys_and_values_apart(tmp_path, family) -> None:
    check(written(tmp_path, named(MADE[family], split=True)), MADE[family])


@settings(deadline=None, max_examples=25)
@given(
    dim=st.integers(1, 9), depth=st.integers(1, 3), heads=st.integers(1, 3),
    queries=st.integers(17, 40), embedding=st.integers(1, 9), output=st.integers(2, 9),
    ff_mult=st.integers(1, 4), unit=st.integers(1, 5), family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 99), naming=st.sampled_from(list(all_namings())),
)  # fmt: skip
def test_any_sizes(tmp_path_factory, family, unit, seed, naming, **sizes) -> None:
    made = release(family, unit, seed=seed, **sizes)
    path = written(tmp_path_factory.mktemp("any"), named(made, *naming))
    encoder, info = load_encoder(path)
    features = torch.randn(1, 5, sizes["embedding"])
    assert torch.allclose(encoder(features), made.resampler(features), atol=1e-4)
    for place, (key, value) in zip(made.places, made.pairs, strict=True):
        projection = encoder.projections.at(place.site)
        assert torch.equal(projection.to_k.weight, key)
        assert torch.equal(projection.to_v.weight, value)
    assert info.config.ff_mult == sizes["ff_mult"] and info.config.depth == sizes["depth"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype(tmp_path, dtype) -> None:
    encoder, _ = load_encoder(written(tmp_path, named(MADE["sd15"]), dtype))
    assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}
    assert torch.equal(
        encoder.projections.at("middle.0.0").to_v.weight, MADE["sd15"].pairs[-1][1].to(dtype)
    )


@pytest.mark.parametrize(
    ("width", "kind"),
    [
        (1280, "CLIP ViT-H/14"),
        (1664, "CLIP ViT-bigG/14"),
        (1024, "CLIP ViT-L/14"),
        (12, "an image model with features of width 12"),
    ],
)
def test_what_a_release_is_taken_for(tmp_path, width, kind) -> None:
    made = release("sdxl", embedding=width)
    info = read_info(written(tmp_path, named(made)))
    assert info.backbone == Backbone(kind, "", 224, feature_dim=width)
    assert (info.domain, info.class_word) == ("person", "person")
    assert (info.norm, info.token_weight) == (NormControl("text", 2.0), 1.0)


def test_what_was_frozen_is_left_aside(tmp_path) -> None:
    made = MADE["sdxl"]
    path = written(
        tmp_path,
        {
            **named(made, "paths"),
            **base_unet(made, "unet."),
            "image_encoder.vision_model.embeddings.class_embedding": torch.zeros(12),
            "image_encoder.vision_model.post_layernorm.weight": torch.zeros(12),
            "image_encoder.vision_model.encoder.layers.0.self_attn.k_proj.weight": torch.zeros(
                12, 10
            ),
        },
    )
    check(path, made)
    reading = read_release(path)
    assert reading is not None
    assert reading.aside == {
        "the base model's UNet (unet.)": 5 + 3 * 70,
        "the image model (image_encoder.)": 3,
    }


@pytest.mark.parametrize(("width", "family"), [(768, "sd15"), (1024, "sd2")])
def test_sd2_is_told_by_the_width_of_its_context(tmp_path, width, family) -> None:
    path = written(tmp_path, named(release("sd15", output=width)))
    assert load_encoder(path)[1].base_family == family


def test_a_loaded_release_can_be_saved_in_the_pack_s_own_format(tmp_path) -> None:
    encoder, info = load_encoder(written(tmp_path, named(MADE["sd15"])))
    save_encoder(tmp_path / "own.safetensors", encoder, info)
    again, same = load_encoder(tmp_path / "own.safetensors")
    assert same == info and read_release(tmp_path / "own.safetensors") is None
    assert all(map(torch.equal, encoder.state_dict().values(), again.state_dict().values()))


def test_the_report_says_where_every_tensor_went(tmp_path) -> None:
    made = MADE["sdxl"]
    reading = read_release(written(tmp_path, named(made, "odd, fused")))
    assert reading is not None
    lines = {line.split("  <-  ")[0].strip(): line.split("  <-  ")[1]
             for line in table(reading).splitlines()}  # fmt: skip
    assert lines.keys() == load_encoder(tmp_path / "model.safetensors")[0].state_dict().keys()
    assert lines["resampler.queries"] == "image_proj_model.latents"
    assert lines["resampler.layers.1.attention.to_v.weight"] == (
        "image_proj_model.layers.1.0.to_kv.weight (lower half)"
    )
    assert lines["projections.middle.0.0.to_k.weight"] == (
        "adapter_modules.121.to_kv_nest.weight (upper half)"
    )
    text = summary("model.safetensors", reading)
    assert "70 cross-attentions; 20 tokens of width 10 from features of width 12" in text
    assert "2 heads of 64 (assumed: heads of 64)" in text
    assert (
        "  output.3, 2 of width 4: adapter_modules.109.to_kv_nest.weight (upper half) to "
        "adapter_modules.111.to_kv_nest.weight (upper half)"
    ) in text.splitlines()


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def replaced(**tensors: torch.Tensor) -> Callable[[State], State]:
    return lambda state: {**state, **tensors}


def moved(order: Callable[[list[int]], list[int]]) -> Callable[[State], State]:
    """Pairs in another order of the places, under the same numbers."""

    def change(state: State) -> State:
        numbers = list(range(1, 140, 2))
        target = dict(zip(order(numbers), numbers, strict=True))

        def new_name(name: str) -> str:
            parts = name.split(".")
            if parts[0] == "adapter_modules":
                parts[1] = str(target[int(parts[1])])
            return ".".join(parts)

        return {new_name(name): tensor for name, tensor in state.items()}

    return change


LATENTS = "image_proj_model.latents"
MAP = "adapter_modules.*.to_[kv]_nest.weight (70 keys, 70 values)"
BROKEN: list[tuple[Callable[[State], State], str]] = [
    (
        without("adapter_modules.77.to_v_nest.weight"),
        "adapter_modules.*.to_[kv]_nest.weight (70 keys, 69 values) has not one key and one value "
        "at each place: adapter_modules.77.to_k_nest.weight",
    ),
    (
        lambda state: {n: t for n, t in state.items() if ".77." not in n},
        "adapter_modules.*.to_[kv]_nest.weight (69 keys, 69 values) has 69 pairs, numbered 1 to "
        "139, where 77 is missing",
    ),
    (
        lambda state: {n: t for n, t in state.items() if ".139." not in n},
        "adapter_modules.*.to_[kv]_nest.weight (69 keys, 69 values) has 69 pairs, where 70 (sdxl) "
        "or 16 (sd15) are known",
    ),
    (
        renamed("adapter_modules.77.", "adapter_modules.78."),
        f"{MAP} has 70 pairs, numbered 1 to 139, where 77 is missing",
    ),
    (
        # down, mid, up: the order that is not diffusers'
        moved(lambda n: n[:24] + n[60:] + n[24:60]),
        f"{MAP} has the widths 4 x 4, 8 x 60, 4 x 6 in this order, which fit no model known",
    ),
    (
        replaced(**{"adapter_modules.77.to_v_nest.weight": torch.ones(9, 10)}),
        f"{MAP} has keys and values of different shapes: adapter_modules.77.to_k_nest.weight, "
        "adapter_modules.77.to_v_nest.weight",
    ),
    (
        lambda state: {**state, **{n.replace("_nest", "_ip"): t for n, t in state.items()}},
        "more than one set of nested keys and values fits: adapter_modules.*.to_[kv]_ip.weight "
        "(70 pairs); adapter_modules.*.to_[kv]_nest.weight (70 pairs)",
    ),
    (
        lambda state: {**state, **{f"ema.{n}": t for n, t in state.items()}},
        "it has 2 resamplers: ema.image_proj_model.latents, image_proj_model.latents",
    ),
    (
        lambda state: {n: t for n, t in state.items() if "adapter" not in n},
        "it has a resampler with tokens of width 10, but no nested keys and values of this width",
    ),
    (
        replaced(**{"adapter_modules.77.to_k_nest.bias": torch.ones(8)}),
        "no place is known for 1 of its tensors: adapter_modules.77.to_k_nest.bias",
    ),
    (
        replaced(**{"image_proj_model.layers.0.0.to_out.bias": torch.ones(16)}),
        "no place is known for 1 of its tensors: image_proj_model.layers.0.0.to_out.bias",
    ),
    (
        replaced(token_embedding=torch.ones(5), **{"extra.scale": torch.ones(1)}),
        "no place is known for 2 of its tensors: extra.scale, token_embedding",
    ),
    (
        without("image_proj_model.layers.1.1.3.weight"),
        "it has no tensor for resampler.layers.1.mlp.down.weight",
    ),
    (
        without("image_proj_model.proj_in.weight"),
        "its resampler has no tensor for resampler.proj_in.weight",
    ),
    (
        lambda state: {n: t for n, t in state.items() if ".layers.0." not in n},
        "its resampler has no tensor for resampler.layers.0.attention.to_q.weight",
    ),
    (
        replaced(**{LATENTS: torch.ones(20, 16)}),
        "the tensor for resampler.queries has shape (20, 16), not one of 3 sizes",
    ),
    (
        replaced(**{LATENTS: torch.ones(2, 20, 16)}),
        f"{LATENTS} has shape (2, 20, 16), not (1, 20, 16)",
    ),
    (
        replaced(**{"image_proj_model.norm_out.bias": torch.ones(11)}),
        "image_proj_model.norm_out.bias has shape (11,), not (10,)",
    ),
    (
        replaced(**{"image_proj_model.layers.0.0.to_k.weight": torch.ones(128, 16)}),
        "it has two tensors for resampler.layers.0.attention.to_k.weight: "
        "image_proj_model.layers.0.0.to_k.weight and image_proj_model.layers.0.0.to_kv.weight",
    ),
    (
        replaced(**{"adapter_modules.77.to_v_nest.weight": torch.ones(8, 10, dtype=torch.int8)}),
        "adapter_modules.77.to_v_nest.weight is I8, not a floating number",
    ),
    (
        replaced(**{"image_proj_model.pos_emb.weight": torch.ones(257, 12)}),
        "its resampler has a learned position for each image feature (image_proj_model.pos_emb.*), "
        "which this version does not compute",
    ),
    (
        replaced(
            **{
                "image_proj_model.to_latents_from_mean_pooled_seq.1.weight": torch.ones(64, 16),
            }
        ),
        "its resampler has queries made from the mean of the image features "
        "(image_proj_model.to_latents_from_mean_pooled_seq.*), which this version does not compute",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BROKEN)
def test_broken_files(tmp_path, change, expected) -> None:
    state = change(named(MADE["sdxl"]))
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    assert problem(path) == expected


def test_an_adapter_s_inner_width_that_heads_of_64_do_not_divide(tmp_path) -> None:
    made = release("sd15", heads=3, dim_head=20)
    path = written(tmp_path, named(made))
    assert problem(path) == (
        "the inner width of its resampler's attention is 60, which heads of 64 do not divide, so "
        "the width of a head has to be given as head_dim"
    )
    mapped(tmp_path, head_dim=20)
    check(path, made)


def test_a_published_ip_adapter_is_not_taken_for_a_nested_encoder(tmp_path) -> None:
    made = release("sdxl", queries=16)
    path = written(tmp_path, named(made, "odd, container", "image_proj."))
    assert problem(path) == (
        "it can be read as an IP-Adapter, which belongs in models/ipadapter, as well as a nested "
        "encoder: ip_adapter.*.to_[kv]_ip.weight with 16 tokens"
    )
    mapped(tmp_path, keys="ip_adapter.*.to_k_ip.weight", values="ip_adapter.*.to_v_ip.weight")
    check(path, made)
    mapped(tmp_path)
    assert "can be read as an IP-Adapter" in refusal(path)


def test_a_mapping_file_chooses_between_two_readings(tmp_path) -> None:
    made, other = MADE["sd15"], release("sd15", seed=1)
    state = {**named(made), **{f"ema.{n}": t for n, t in named(other).items()}}
    path = written(tmp_path, state)
    assert "it has 2 resamplers" in problem(path)
    mapped(tmp_path, resampler="ema.image_proj_model.")
    assert "more than one set of nested keys and values fits" in problem(path)
    names = {
        "keys": "ema.adapter_modules.*.to_k_nest.weight",
        "values": "ema.adapter_modules.*.to_v_nest.weight",
    }
    mapped(tmp_path, resampler="ema.image_proj_model.", **names)
    assert "of its tensors: adapter_modules.1.to_k_nest.weight" in problem(path)
    mapped(
        tmp_path, resampler="ema.image_proj_model.", **names,
        ignore=["image_proj_model.", "adapter_modules."],
    )  # fmt: skip
    check(path, other)
    mapped(tmp_path, resampler="image_proj_model.", ignore=["ema."])
    check(path, made)


def test_a_mapping_file_for_names_that_tell_no_role(tmp_path) -> None:
    made = MADE["sd15"]
    state = {n.replace("to_k_nest", "a").replace("to_v_nest", "b"): t
             for n, t in named(made).items()}  # fmt: skip
    path = written(tmp_path, state)
    assert "no nested keys and values of this width" in problem(path)
    mapped(tmp_path, keys="adapter_modules.*.a.weight", values="adapter_modules.*.b.weight")
    check(path, made)
    mapped(tmp_path, keys="adapter_modules.*.b.weight", values="adapter_modules.*.a.weight")
    encoder, _ = load_encoder(path)
    assert torch.equal(encoder.projections.at("middle.0.0").to_k.weight, made.pairs[-1][1])


def test_a_mapping_file_that_names_every_tensor(tmp_path) -> None:
    made = MADE["sd15"]
    own = load_encoder(written(tmp_path, named(made)))[0].state_dict()
    names = {name: f"t.{number}.x" for number, name in enumerate(own)}
    path = written(tmp_path, {names[name]: tensor for name, tensor in own.items()})
    mapped(tmp_path, tensors=names)
    check(path, made)
    mapped(tmp_path, tensors={**names, "resampler.queries": "t.999.x"})
    assert problem(path) == "it has no tensor t.999.x, which the mapping file names"
    left_out = names.pop("projections.middle.0.0.to_k.weight")
    mapped(tmp_path, tensors=names)
    assert problem(path) == f"no place is known for 1 of its tensors: {left_out}"
    mapped(tmp_path, tensors=names, ignore=[left_out])
    assert problem(path) == "it has no tensor for projections.middle.0.0.to_k.weight"


def test_a_mapping_file_gives_what_no_shape_tells(tmp_path) -> None:
    path = written(tmp_path, named(MADE["sd15"]))
    mapped(tmp_path, image_size=336, class_word="cat", domain="pet")
    info = read_info(path)
    assert (info.backbone.image_size, info.class_word, info.domain) == (336, "cat", "pet")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not an object with named entries"),
        ('{"colour": 1}', 'has the entry "colour"; known are resampler, keys, values'),
        ('{"head_dim": 0}', 'gives "head_dim" as 0; a whole number above 0 is expected'),
        ('{"image_size": true}', 'gives "image_size" as True; a whole number'),
        ('{"keys": "a", "values": "b"}', "gives \"keys\" as 'a'; a name with one * is expected"),
        ('{"keys": "a.*"}', "gives only one of keys and values"),
        ('{"ignore": "ema."}', "a list of beginnings of names is expected"),
        ('{"ignore": [""]}', "a list of beginnings of names is expected"),
        ('{"tensors": []}', "an object of names is expected"),
        ('{"resampler": 1}', 'gives "resampler" as 1; a text is expected'),
    ],
)
def test_mapping_files_that_cannot_be_used(tmp_path, content, expected) -> None:
    path = written(tmp_path, named(MADE["sd15"]))
    (tmp_path / "model.mapping.json").write_text(content)
    message = refusal(path)
    assert message.startswith('The mapping file "model.mapping.json" ') and expected in message
    assert message.endswith("; docs/weights.md shows how to write one.")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"resampler": "head.layers"}, "it has no resampler at head.layers"),
        ({"keys": "a.*.k", "values": "a.*.v"}, "no tensor is called a.*.k or a.*.v"),
        (
            {"tensors": {"projections.middle.0.0.to_k.weight": LATENTS}},
            "the mapping file's projections.middle.0.0.to_k.weight is no name of a projection",
        ),
    ],
)
def test_mapping_files_that_do_not_fit(tmp_path, entries, expected) -> None:
    path = written(tmp_path, named(MADE["sd15"]))
    mapped(tmp_path, **entries)
    assert problem(path) == expected


def test_numbers_that_are_not_finite(tmp_path) -> None:
    state = named(MADE["sd15"])
    state["adapter_modules.1.to_k_nest.weight"] = torch.full((4, 10), float("nan"))
    with pytest.raises(NestedAttentionError) as caught:
        load_encoder(written(tmp_path, state))
    assert str(caught.value) == (
        '"model.safetensors" holds NaN or infinite numbers, first in '
        "projections.input.1.0.to_k.weight; download or copy it again."
    )


def test_a_release_cut_short(tmp_path) -> None:
    path = written(tmp_path, named(MADE["sd15"]))
    path.write_bytes(path.read_bytes()[:-1])
    assert "is cut short after" in refusal(path)


def test_a_release_as_a_pickle_is_refused(tmp_path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(named(MADE["sd15"]), path)
    assert "can run programs when it is read and is never opened here" in refusal(path)
