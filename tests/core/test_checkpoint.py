"""An encoder's file: what it keeps, and what is said of files that cannot be read."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nested_attn_core.attention import NormControl
from nested_attn_core.checkpoint import (
    METADATA_KEY,
    Backbone,
    EncoderInfo,
    load_encoder,
    read_info,
    save_encoder,
)
from nested_attn_core.encoder import EncoderConfig, NestedEncoder, Site
from nested_attn_core.errors import NestedAttentionError

CONFIG = EncoderConfig(
    feature_dim=5, tokens=2, token_dim=4, width=6, depth=1, heads=1, head_dim=3, ff_mult=1,
    sites=(Site("input", 1, 0, 8), Site("middle", 0, 0, 6)),
)  # fmt: skip
INFO = EncoderInfo(
    base_family="sdxl",
    config=CONFIG,
    backbone=Backbone("clip_vision", "0123", 224),
    domain="person",
    class_word="person",
    norm=NormControl("text", 1.5),
    token_weight=16.0,
    licence="Apache-2.0",
    trained_on="nothing",
    command="none",
    steps=7,
    extra={"seed": 3, "loss": [0.5, 0.25], "note": {"é": None}},
)


def make_encoder(dtype: torch.dtype = torch.float32) -> NestedEncoder:
    torch.manual_seed(0)
    return NestedEncoder(CONFIG, dtype=dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "anna.safetensors"
    save_encoder(path, make_encoder(), INFO)
    return path


@pytest.fixture
def forbid_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for owner, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(owner, name, refuse)


def refusal(path: Path) -> str:
    """What both readers say of a file; the sentence names it."""
    with pytest.raises(NestedAttentionError) as reading:
        read_info(path)
    with pytest.raises(NestedAttentionError) as loading:
        load_encoder(path)
    message = str(reading.value)
    assert message == str(loading.value)
    assert f'"{path.name}"' in message
    assert message.endswith(".") and "\n" not in message
    return message


def rewritten(path: Path, change_data=None, **tensors: torch.Tensor | None) -> Path:
    """The same file with its description changed, and tensors put in or (None) left out."""
    with safe_open(path, "pt") as file:
        data = json.loads(file.metadata()[METADATA_KEY])
    if change_data is not None:
        data = change_data(data)
    state = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    save_file(state, path, metadata={METADATA_KEY: json.dumps(data)})
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_an_encoder_comes_back_bit_for_bit(tmp_path, dtype) -> None:
    encoder = make_encoder(dtype)
    save_encoder(tmp_path / "x", encoder, INFO)
    loaded, info = load_encoder(tmp_path / "x")
    assert info == read_info(tmp_path / "x") == INFO
    before, after = encoder.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(after[k].dtype == dtype and torch.equal(v, after[k]) for k, v in before.items())
    assert loaded.config == CONFIG and not loaded.training


def test_the_same_tokens_and_keys_before_and_after(path) -> None:
    features = torch.randn(2, 3, 5)
    one, (other, _) = make_encoder(), load_encoder(path)
    assert torch.equal(one(features), other(features))
    for name, pair in one.keys_values(one(features)).items():
        assert all(map(torch.equal, pair, other.keys_values(other(features))[name]))


def test_dtypes_on_saving_and_loading(tmp_path) -> None:
    save_encoder(tmp_path / "x", make_encoder(), INFO, torch.float16)
    assert load_encoder(tmp_path / "x")[0].resampler.queries.dtype == torch.float16
    loaded, _ = load_encoder(tmp_path / "x", dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_loading_uses_the_operations_given(path) -> None:
    class Marked(torch.nn.Module):
        class Linear(torch.nn.Linear):
            pass

        LayerNorm = torch.nn.LayerNorm

    encoder, _ = load_encoder(path, Marked)
    assert type(encoder.projections.at("middle.0.0").to_k) is Marked.Linear


def test_a_loaded_encoder_can_be_trained_on(path) -> None:
    encoder, _ = load_encoder(path)
    encoder(torch.randn(1, 3, 5)).square().sum().backward()
    gradient = encoder.resampler.queries.grad
    assert gradient is not None and gradient.any()


def test_the_file_is_plain_safetensors_with_json_metadata(path) -> None:
    with safe_open(path, "pt") as file:
        data = json.loads(file.metadata()[METADATA_KEY])
        assert set(file.keys()) == set(make_encoder().state_dict())
    assert data["format_version"] == 1
    assert data["base_family"] == "sdxl"
    assert data["config"]["sites"][0] == {"block": "input", "number": 1, "index": 0, "width": 8}
    assert data["backbone"] == {
        "kind": "clip_vision", "fingerprint": "0123", "layer": "last_hidden_state",
        "image_size": 224,
    }  # fmt: skip
    assert data["norm"] == {"mode": "text", "factor": 1.5}
    assert (data["domain"], data["class_word"], data["steps"]) == ("person", "person", 7)
    assert (data["licence"], data["trained_on"]) == ("Apache-2.0", "nothing")
    assert (data["command"], data["seed"]) == ("none", 3)


def test_a_backbone_that_is_known_by_its_shape(tmp_path) -> None:
    by_shape = replace(INFO, backbone=Backbone("CLIP ViT-H", "", 224, feature_dim=5))
    save_encoder(tmp_path / "x", make_encoder(), by_shape)
    assert read_info(tmp_path / "x") == by_shape


def test_saving_over_a_file_replaces_it_and_leaves_nothing_else(path) -> None:
    save_encoder(path, make_encoder(), replace(INFO, steps=8))
    assert read_info(path).steps == 8
    assert list(path.parent.iterdir()) == [path]


def test_a_name_says_nothing(path) -> None:
    renamed = path.rename(path.with_name("model.ckpt"))
    assert read_info(renamed) == INFO


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, number) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.projections.at("middle.0.0").to_v.weight[1, 1] = number
    with pytest.raises(NestedAttentionError, match="first in projections.middle.0.0.to_v.weight"):
        save_encoder(tmp_path / "x", encoder, INFO)
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_the_dtype_are_not_saved(tmp_path) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.resampler.queries[0, 0, 0] = 1e5
    with pytest.raises(NestedAttentionError, match="first in resampler.queries"):
        save_encoder(tmp_path / "x", encoder, INFO, torch.float16)


def test_a_description_of_another_encoder_is_not_saved(tmp_path) -> None:
    with pytest.raises(NestedAttentionError, match="build it from encoder.config"):
        save_encoder(
            tmp_path / "x", make_encoder(), replace(INFO, config=replace(CONFIG, tokens=3))
        )


def test_an_interrupted_save_leaves_the_old_file(path, monkeypatch) -> None:
    def cut(state, target, metadata=None) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("nested_attn_core.whole_files.save_file", cut)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(path, make_encoder(), replace(INFO, steps=8))
    assert read_info(path) == INFO
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_there(tmp_path) -> None:
    message = refusal(tmp_path / "gone.safetensors")
    assert message == (
        'There is no file "gone.safetensors"; put it into models/nested_attention and refresh.'
    )


def test_a_folder(tmp_path) -> None:
    assert "cannot be opened" in refusal(tmp_path)


def test_an_empty_file(tmp_path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(b"")
    assert refusal(path) == (
        '"empty.safetensors" is empty (0 bytes), so its download did not finish; get it again.'
    )


def test_a_file_cut_at_any_byte(path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {1, 7, 8, 9, 10, header - 1, header, header + 1, len(whole) - 1}
    lengths |= set(range(1, len(whole), 41))
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        message = refusal(path)
        assert f"is cut short after {length} bytes" in message, (length, message)
        assert "get it again" in message


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_never_end_in_another_error(path, data) -> None:
    whole = bytearray(path.read_bytes())
    keep = bytes(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        load_encoder(path)
    except NestedAttentionError as error:
        assert path.name in str(error)
    finally:
        path.write_bytes(keep)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(junk=st.binary(min_size=1, max_size=200))
def test_random_bytes_are_refused(tmp_path, junk) -> None:
    path = tmp_path / "junk.safetensors"
    path.write_bytes(junk)
    refusal(path)


def test_bytes_after_the_end(path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    assert "has 4 bytes more than its header tells of; download or copy it again" in refusal(path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "unpickled")


def zipped_pickle(path: Path, content: object) -> None:
    torch.save(content, path)


def legacy_pickle(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def raw_pickle(protocol: int):
    def write(path: Path, content: object) -> None:
        path.write_bytes(pickle.dumps(content, protocol))

    return write


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (zipped_pickle, "a PyTorch pickle file in a zip (.pt, .pth, .bin or .ckpt)"),
        (legacy_pickle, "a Python pickle file (.pt, .pth, .bin or .ckpt)"),
        *((raw_pickle(n), "a Python pickle file (.pt, .pth, .bin or .ckpt)") for n in (2, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.bin"])
def test_a_pickle_is_refused_and_never_run(tmp_path, write, kind, name, request) -> None:
    target = tmp_path / "witness"
    path = tmp_path / name
    write(path, {"image_proj": torch.ones(2), "bomb": Bomb(target)})
    with path.open("rb") as file:
        # The file is armed: without this, the rest would prove nothing.
        if kind.startswith("a Python") and write is not legacy_pickle:
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert target.exists()
    target.unlink()
    request.getfixturevalue("forbid_unpickling")
    assert refusal(path) == (
        f'"{name}" is {kind}, which can run programs when it is read and is never opened here; '
        "a Nested Attention encoder (.safetensors, in models/nested_attention) is needed here, so "
        "ask its author for one."
    )
    assert not target.exists()


def test_a_pickle_cut_anywhere_is_refused(tmp_path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(50)}, path)
    whole = path.read_bytes()
    for length in range(9, len(whole), 37):
        path.write_bytes(whole[:length])
        assert "is a PyTorch pickle file in a zip" in refusal(path)


def test_another_zip(tmp_path) -> None:
    path = tmp_path / "models.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("encoder.safetensors", b"inside")
    assert "is a zip archive; unpack it" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "is a GGUF model"),
        (b"<!DOCTYPE html><html>not found</html>", "is a web page, saved instead of the file"),
        (b"\n <html><body>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is no safetensors file, nor any model file known"),
        (b"just some words, long enough", "is no safetensors file"),
        ((3).to_bytes(8, "little") + b"{]}", "has a damaged safetensors header"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", "has a damaged safetensors header"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "has a damaged safetensors header"),
        ((200_000_000).to_bytes(8, "little") + b"{}", "is no safetensors file"),
    ],
)
def test_other_content(tmp_path, content, message) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
            "is an IP-Adapter, so it belongs in models/ipadapter",
        ),
        (["adapter_modules.1.to_k_ip.weight"], "is an IP-Adapter"),
        (
            ["adapter_modules.1.to_k.weight", "image_proj_model.latents"],
            "is an adapter in the layout of its authors' training code, so this version cannot",
        ),
        (
            ["lora_unet_mid_block.lora_up.weight", "lora_unet_mid_block.lora_down.weight"],
            "is a LoRA, so it belongs in models/loras, for Load LoRA",
        ),
        (["unet.mid.to_k.lora_A.weight", "unet.mid.to_k.lora_B.weight"], "is a LoRA"),
        (["lora_unet_x.hada_w1_a"], "is a LoRA"),
        (["lora_unet_x.lokr_w1"], "is a LoRA"),
        (["control_model.input_hint_block.0.weight"], "is a ControlNet, so it belongs in"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"], "is a ControlNet"),
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.x",
             "cond_stage_model.transformer.text_model.x"],
            "is a full checkpoint, so it belongs in models/checkpoints, for Load Checkpoint",
        ),
        (["model.diffusion_model.x", "conditioner.embedders.0.x"], "is a full checkpoint"),
        (
            ["model.diffusion_model.input_blocks.0.0.weight"],
            "is a diffusion model (UNet or transformer) and no encoder, so it belongs in "
            "models/diffusion_models, for Load Diffusion Model",
        ),
        (["input_blocks.0.0.weight", "output_blocks.0.0.weight"], "is a diffusion model"),
        (["down_blocks.0.x", "up_blocks.0.x", "time_embedding.linear_1.weight"], "is a diffusion"),
        (
            ["vision_model.embeddings.class_embedding", "visual_projection.weight"],
            "is a CLIP Vision model, so it belongs in models/clip_vision, for Load CLIP Vision",
        ),
        (["visual.class_embedding", "visual.proj"], "is a CLIP Vision model"),
        (["text_model.embeddings.token_embedding.weight"], "is a text encoder, so it belongs in"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is a VAE, so it belongs in"),
        (["first_stage_model.decoder.x"], "is a VAE"),
        (["taesd_encoder.0.weight", "taesd_decoder.1.weight"], "is a VAE"),
        (["emb_params"], "is a textual inversion embedding, so it belongs in models/embeddings"),
        (["clip_l", "clip_g"], "is a textual inversion embedding"),
        (["something.else"], "is a safetensors file, but of no kind known"),
    ],
)  # fmt: skip
def test_other_models_are_named_with_their_place(tmp_path, keys, message) -> None:
    path = tmp_path / "nested_encoder.safetensors"
    save_file({key: torch.ones(1) for key in keys}, path)
    said = refusal(path)
    assert message in said
    assert said.endswith(
        "; a Nested Attention encoder (.safetensors, in models/nested_attention) is needed here."
    )


@pytest.mark.parametrize("metadata", [None, {METADATA_KEY: "{"}, {METADATA_KEY: "[]"}])
def test_an_encoder_that_lost_its_description(path, metadata) -> None:
    save_file(load_file(path), path, metadata=metadata)
    assert "has lost the description that a nested encoder carries" in refusal(path)


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.0, True])
def test_a_version_that_is_none(path, version) -> None:
    rewritten(path, lambda data: {**data, "format_version": version})
    assert "has lost the description" in refusal(path)


def test_a_newer_format(path) -> None:
    rewritten(path, lambda data: {**data, "format_version": 3, "config": "unheard of"})
    assert refusal(path) == (
        '"anna.safetensors" is a nested encoder of format 3, and this version of the pack reads '
        "up to format 2; update the pack."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_family": "flux"}, 'base family "flux"; this version knows sd15, sd2, sdxl'),
        ({"domain": ""}, "domain is ''"),
        ({"class_word": 5}, "class_word is 5"),
        ({"backbone": None}, "description cannot be read"),
        ({"backbone": {"kind": "x"}}, "description cannot be read"),
        (
            {"backbone": {"kind": "x", "fingerprint": "y", "image_size": 8, "layer": "other"}},
            'reads the layer "other"',
        ),
        ({"backbone": {"kind": "x", "fingerprint": "y", "image_size": 0}}, "image size is 0"),
        (
            {"backbone": {"kind": "x", "fingerprint": "", "image_size": 8, "feature_dim": -1}},
            "width of the encoder's image features is -1",
        ),
        ({"norm": {"mode": "loud"}}, 'Norm control "loud" is unknown'),
        ({"norm": [1]}, 'description cannot be read ("norm" is no table); get the file again.'),
        ({"norm": None}, 'description cannot be read ("norm" is no table); get the file again.'),
        ({"token_weight": 0}, "token weight is 0; it must be a finite number above 0"),
        ({"token_weight": "much"}, "token weight is 'much'"),
        ({"config": {}}, "configuration cannot be read"),
        ({"config": {**CONFIG.to_dict(), "depth": 10**9}}, "depth is 1000000000"),
    ],
)
def test_a_description_that_cannot_be_read(path, change, message) -> None:
    rewritten(path, lambda data: {**data, **change})
    assert message in refusal(path)


@pytest.mark.parametrize("name", ["base_family", "config", "backbone", "domain", "class_word"])
def test_a_description_with_a_part_missing(path, name) -> None:
    rewritten(path, lambda data: {k: v for k, v in data.items() if k != name})
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("resampler.queries", None, "the tensor resampler.queries is missing"),
        ("resampler.more", torch.ones(1), "the tensor resampler.more has no place in it"),
        (
            "projections.input.1.0.to_k.weight",
            torch.ones(8, 5),
            "the tensor projections.input.1.0.to_k.weight has shape (8, 5), not (8, 4)",
        ),
        (
            "resampler.proj_in.bias",
            torch.ones(6, dtype=torch.int8),
            "the tensor resampler.proj_in.bias is I8, not a floating number",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_description(path, name, tensor, message) -> None:
    rewritten(path, **{name: tensor})
    assert refusal(path) == (
        f'"anna.safetensors" does not fit its own description: {message}; download or copy it '
        "again."
    )


@pytest.mark.parametrize("size", ["feature_dim", "tokens", "token_dim", "width", "depth", "heads"])
def test_a_configuration_of_another_size(path, size) -> None:
    def change(data):
        return {**data, "config": {**data["config"], size: data["config"][size] + 1}}

    assert "does not fit its own description" in refusal(rewritten(path, change))


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite(path, number) -> None:
    bad = load_file(path)["resampler.proj_in.weight"].clone()
    bad[2, 3] = number
    rewritten(path, **{"resampler.proj_in.weight": bad})
    with pytest.raises(NestedAttentionError) as caught:
        load_encoder(path)
    assert str(caught.value) == (
        '"anna.safetensors" holds NaN or infinite numbers, first in resampler.proj_in.weight; '
        "download or copy it again."
    )


def test_what_a_later_release_adds_to_the_description_is_kept(path, tmp_path) -> None:
    rewritten(path, lambda data: {**data, "colour": "blue"})
    encoder, info = load_encoder(path)
    assert info.extra["colour"] == "blue"
    save_encoder(tmp_path / "copy", encoder, info)
    assert read_info(tmp_path / "copy") == info


def test_an_encoder_may_be_read_by_whom_the_umask_lets(tmp_path: Path, path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_header_longer_than_any_real_one_is_not_read(path) -> None:
    path.write_bytes((25_000_001).to_bytes(8, "little") + b"{" + b" " * 64)
    assert "is no safetensors file" in refusal(path)
    path.write_bytes((25_000_000).to_bytes(8, "little") + b"{" + b" " * 64)
    assert "is cut short" in refusal(path)
