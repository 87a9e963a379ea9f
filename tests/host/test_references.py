"""What the image model sees of a reference, and which image models the host gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.clip_vision
import numpy
import pytest
import torch
from PIL import Image

from .conftest import VISION_CONFIG, World, pack, randomise
from .test_bad_input import encode, sentence

CONFIGS = {
    "CLIP ViT-L/14": "clip_vision_config_vitl.json",
    "CLIP ViT-L/14 at 336 px": "clip_vision_config_vitl_336.json",
    "CLIP ViT-H/14": "clip_vision_config_h.json",
    "CLIP ViT-bigG/14": "clip_vision_config_g.json",
    "SigLIP so400m at 384 px": "clip_vision_siglip_384.json",
    "SigLIP so400m at 512 px": "clip_vision_siglip_512.json",
    "DINOv2 large": "image_encoders/dino2_large.json",
    "DINOv2 giant": "image_encoders/dino2_giant.json",
}
THIN = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
TALL = torch.rand(1, 96, 48, 3, generator=torch.Generator().manual_seed(3))


def vision_of(folder: Path, config: str, **changes: Any) -> Any:
    """The host's image model of one of its own configurations, with two layers."""
    host = Path(comfy.clip_vision.__file__).parent
    sizes = {**json.loads((host / config).read_text()), "num_hidden_layers": 2, **changes}
    path = folder / "vision.json"
    path.write_text(json.dumps(sizes))
    return comfy.clip_vision.ClipVisionModel(str(path))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_says_what_the_hosts_image_models_yield(tmp_path: Path, name: str) -> None:
    backbones = pack("nodes.host.backbones")
    assert set(CONFIGS) == set(backbones.KNOWN)
    known = backbones.KNOWN[name]
    assert backbones.shape_of(vision_of(tmp_path, CONFIGS[name])) == known
    thin = vision_of(tmp_path, CONFIGS[name], **THIN)
    randomise(thin.model, 1)
    features = thin.encode_image(TALL)["last_hidden_state"]
    shape = backbones.shape_of(thin)
    assert features.shape == (1, shape.tokens, 48) and shape.tokens == known.tokens


def test_an_encoder_known_by_shape_takes_any_model_of_that_shape(
    sd15: World, tmp_path: Path
) -> None:
    check = pack("nodes.host.backbones").check_backbone
    info = sd15.encoder.info

    def by_shape(width: int, size: int) -> Any:
        backbone = replace(info.backbone, fingerprint="", image_size=size)
        config = replace(info.config, feature_dim=width)
        return replace(sd15.encoder, info=replace(info, backbone=backbone, config=config))

    check(vision_of(tmp_path, CONFIGS["CLIP ViT-H/14"]), by_shape(1280, 224))
    with pytest.raises(ValueError) as error:
        check(vision_of(tmp_path, CONFIGS["SigLIP so400m at 384 px"]), by_shape(1280, 224))
    assert "CLIP ViT-H/14" in sentence(error) and "SigLIP so400m at 384 px" in sentence(error)
    with pytest.raises(ValueError) as error:
        check(vision_of(tmp_path, CONFIGS["CLIP ViT-L/14"]), by_shape(1024, 336))
    assert "CLIP ViT-L/14 at 336 px" in sentence(error)
    check(sd15.vision, by_shape(VISION_CONFIG["hidden_size"], 32))


def test_an_encoder_known_by_fingerprint_takes_no_other(sd15: World, tmp_path: Path) -> None:
    check = pack("nodes.host.backbones").check_backbone
    with pytest.raises(ValueError) as error:
        check(vision_of(tmp_path, CONFIGS["DINOv2 giant"]), sd15.encoder)
    assert "the tiny vision model" in sentence(error) and "DINOv2 giant" in sentence(error)


def test_framing_leaves_squares_alone_and_says_what_it_does_to_others(sd15: World) -> None:
    vision = pack("nodes.host.vision")

    def features(image: torch.Tensor, framing: str) -> torch.Tensor:
        return vision.image_features(sd15.vision, sd15.encoder, image, None, framing)

    square = TALL[:, 24:72]
    stock = sd15.vision.encode_image(square)["last_hidden_state"]
    assert torch.equal(features(square, "pad"), stock)
    assert torch.equal(features(square, "crop"), stock)
    # Crop is what the host's own CLIP Vision Encode does; pad is another picture.
    cropped = sd15.vision.encode_image(TALL)["last_hidden_state"]
    assert torch.equal(features(TALL, "crop"), cropped)
    assert not torch.equal(features(TALL, "pad"), cropped)
    with pytest.raises(ValueError) as error:
        features(TALL, "stretch")
    assert "pad or crop" in sentence(error)


def test_nothing_of_a_padded_image_is_lost(sd15: World) -> None:
    vision = pack("nodes.host.vision")
    picture = torch.zeros(2, 96, 48, 3)
    picture[:, :12] = 1  # what a crop to the middle loses
    padded = vision.seen(sd15.vision, picture, None, "pad")
    cropped = vision.seen(sd15.vision, picture, None, "crop")
    assert padded.shape == cropped.shape == (2, 32, 32, 3)
    assert cropped.max() < 0.2 and padded[:, :3, 12:20].min() > 0.8
    assert (padded[:, :, :6] - 128 / 255).abs().max() < 0.05


@pytest.mark.parametrize("framing", ["pad", "crop"])
def test_the_preview_is_what_was_encoded(host: Any, sd15: World, framing: str) -> None:
    import folder_paths

    node = host.NODE_CLASS_MAPPINGS["NestedAttentionEncodeSubject"]
    mask = torch.zeros(1, 96, 48)
    mask[:, :70, 4:44] = 1
    made = node.execute(sd15.encoder, sd15.vision, TALL, "anna", crop_mask=mask, framing=framing)
    (entry,) = made.ui.as_dict()["images"]
    path = Path(folder_paths.get_temp_directory()) / entry["subfolder"] / entry["filename"]
    with Image.open(path) as file:
        shown = torch.from_numpy(numpy.array(file.convert("RGB")))[None] / 255
    # Of the image model's own size, so that encoding it again gives the same subject.
    again = encode(host, sd15, shown)
    assert torch.allclose(made.result[0].tokens, again.tokens, atol=2e-2)
