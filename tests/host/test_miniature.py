"""The miniature in the real host: its towers, its loader, and a step of encoder training."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import comfy.supported_models
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from commands.pack import ROOT, module
from stages.common import core

MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def host() -> Any:
    return module("nodes.host.miniature")


@pytest.fixture(scope="module")
def miniature(host: Any) -> Any:
    return host.load_miniature()


def test_the_text_tower_computes_what_the_host_computes(host):
    towers, config = core("training.miniature.clip_layout"), core("training.miniature.config")
    vocabulary = core("training.miniature.vocabulary").Vocabulary([49406, 49407, 320, 2533])
    torch.manual_seed(0)
    tower = towers.TextTower(config.TEXT, len(vocabulary)).eval()
    clip = host.clip_from(tower.state_dict(), config.TEXT, list(vocabulary.token_ids))
    for text in ("a person", "a person a a", "", "zebra person"):
        tokens = clip.tokenize(text)
        ids = [entry[0] for entry in tokens["l"][0]]
        with torch.no_grad():
            expected = tower(torch.tensor([vocabulary.rows(ids)]))
        found = clip.encode_from_tokens(tokens)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_vision_tower_computes_what_the_host_computes(host):
    towers, config = core("training.miniature.clip_layout"), core("training.miniature.config")
    export = importlib.import_module("commands.stages.export")
    torch.manual_seed(0)
    tower = towers.VisionTower(config.VISION).eval()
    # The host holds CLIP vision in half precision.
    half = {name: t.half().float() for name, t in tower.state_dict().items()}
    tower.load_state_dict(half)
    vision = host.vision_from(export.vision_state(half), config.VISION)
    images = torch.rand(2, 128, 128, 3)
    with torch.no_grad():
        rounded = (images * 255).round() / 255
        expected = tower(rounded.movedim(-1, 1) * 2 - 1)
    found = vision.encode_image(images)["last_hidden_state"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_backbone_that_trains_further_begins_as_the_one_that_ships(miniature):
    backbone = importlib.import_module("commands.stages.backbone")
    shipped = importlib.import_module("commands.stages.shipped")
    tower = backbone.build(seed=0, patch_dim=4).tower.eval()
    tower.load_state_dict(shipped.vision())
    images = torch.rand(2, 128, 128, 3)
    with torch.no_grad():
        found = tower((images * 255).round().movedim(-1, 1) / 127.5 - 1)
    expected = miniature.clip_vision.encode_image(images)["last_hidden_state"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_loading_registers_nothing(host):
    before = (
        list(comfy.supported_models.models),
        {name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()},
    )
    checkpoints = folder_paths.get_filename_list("checkpoints")
    host.load_miniature()
    after = (
        list(comfy.supported_models.models),
        {name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()},
    )
    assert before == after
    assert checkpoints == folder_paths.get_filename_list("checkpoints")


def test_stock_nodes_drive_the_miniature(miniature):
    nodes: Any = importlib.import_module("nodes")
    encode = nodes.CLIPTextEncode().encode
    positive = encode(miniature.clip, "a kitten with round eyes, beach")[0]
    negative = encode(miniature.clip, "")[0]
    latent = nodes.EmptyLatentImage().generate(128, 128, 2)[0]
    done = nodes.KSampler().sample(
        miniature.model, 1, 3, 3.0, "euler", "simple", positive, negative, latent
    )[0]
    image = nodes.VAEDecode().decode(miniature.vae, done)[0]
    assert image.shape == (2, 128, 128, 3)
    assert torch.isfinite(image).all() and image.std() > 0.02
    assert not torch.equal(image[0], image[1])
    back = nodes.VAEEncode().encode(miniature.vae, image)[0]["samples"]
    assert back.shape == (2, 16, 16, 16)


def test_the_autoencoder_gives_back_what_it_is_given(miniature):
    nodes: Any = importlib.import_module("nodes")
    scenes, identities = core("training.miniature.scenes"), core("training.miniature.identities")
    who = identities.identities("kitten", held_out=True)[3]
    import numpy as np

    drawn = np.asarray(scenes.render((who,), "autoencoder").image)
    image = torch.from_numpy(drawn.copy())[None].float() / 255
    latent = nodes.VAEEncode().encode(miniature.vae, image)[0]
    again = nodes.VAEDecode().decode(miniature.vae, latent)[0]
    error = (again - image).square().mean()
    assert error < 0.2 * image.var()
    flat = image.mean((1, 2), keepdim=True).expand_as(image)
    assert error < 0.2 * (flat - image).square().mean()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["missing", "install the pack again"]),
        (b"", ["damaged", "install the pack again"]),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{}nothing", ["not the miniature's weights"]),
    ],
)
def test_a_missing_or_broken_file_is_a_sentence(host, tmp_path, content, words):
    path = tmp_path / "miniature.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(core("errors").NestedAttentionError) as caught:
        host.load_miniature(path)
    assert all(word in str(caught.value) for word in words)


def test_a_truncated_file_is_a_sentence(host, tmp_path):
    path = tmp_path / "miniature.safetensors"
    path.write_bytes((MODELS / "miniature.safetensors").read_bytes()[:1_000_000])
    with pytest.raises(core("errors").NestedAttentionError, match="damaged"):
        host.load_miniature(path)


def test_another_file_is_a_sentence(host, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, str(path))
    with pytest.raises(core("errors").NestedAttentionError, match="not the miniature's weights"):
        host.load_miniature(path)


@pytest.mark.parametrize("domain", ["person", "kitten"])
def test_the_shipped_encoders_fit_the_shipped_miniature(miniature, domain):
    checkpoint, fingerprint = core("checkpoint"), core("fingerprint")
    info = checkpoint.read_info(MODELS / f"{domain}.safetensors")
    sites = module("nodes.host.sites").discover_sites(miniature.model.model.diffusion_model)
    assert info.config.sites == sites
    assert info.class_word == domain
    found = fingerprint.weights_fingerprint(miniature.clip_vision.model.state_dict())
    assert info.backbone.fingerprint == found


def test_the_shipped_weights_are_small():
    total = sum(path.stat().st_size for path in MODELS.rglob("*.safetensors"))
    assert 0 < total <= 60_000_000


@pytest.mark.usefixtures("gradients")
def test_training_moves_the_encoder_and_nothing_else(host):
    encoders, attention = core("encoder"), core("attention")
    unet = host.load_miniature().model.model.diffusion_model
    denoise = module("nodes.host.training").PatchedDenoiser(unet)
    before = {name: p.clone() for name, p in unet.state_dict().items()}
    config = encoders.EncoderConfig(
        feature_dim=8, tokens=3, token_dim=128, width=16, depth=1, heads=2, head_dim=8,
        ff_mult=1, sites=denoise.sites,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = encoders.NestedEncoder(config)
    encoder.projections.init_from(module("nodes.host.sites").site_projections(unet))
    features, context = torch.randn(4, 5, 8), torch.randn(4, 77, 128)
    positions = torch.tensor([[2], [2], [3], [-1]])
    noised, target = torch.randn(2, 4, 16, 16, 16)
    norm = attention.NormControl("text", 2.0)
    method = core("training.methods").NestedMethod(encoder, norm, 4.0)

    def loss() -> torch.Tensor:
        injection = method(features, context, positions)
        sigma = torch.linspace(0.2, 0.9, 4)
        found = denoise(noised, sigma * 1000, injection.context, injection.sites)
        return (found - target).square().mean()

    optimiser = torch.optim.Adam(encoder.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]
    missing = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing
    assert all(torch.equal(before[name], p) for name, p in unet.state_dict().items())


def test_training_and_sampling_run_the_same_patch(miniature):
    """The denoiser that trains gives what the host's own call with the same plan gives."""
    unet = miniature.model.model.diffusion_model
    denoise = module("nodes.host.training").PatchedDenoiser(unet)
    torch.manual_seed(1)
    noised, sigma = torch.randn(2, 16, 16, 16), torch.tensor([0.9, 0.4])
    # What no prompt can be drives the base far out, where rounding grows a thousandfold.
    tokens = miniature.clip.tokenize("a kitten, beach")
    context = miniature.clip.encode_from_tokens(tokens).expand(2, -1, -1)
    assert_close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        plain = unet(noised, sigma * 1000, context=context, transformer_options={})
        assert_close(denoise(noised, sigma * 1000, context, {}), plain)
        site = core("attention").SiteSubject
        subjects = {
            s.name: [
                site(
                    key=torch.randn(1, 4, s.width),
                    value=torch.randn(1, 4, s.width),
                    positions=torch.tensor([[3], [-1]]),
                )
            ]
            for s in denoise.sites
        }
        acted = denoise(noised, sigma * 1000, context, subjects)
    assert not torch.allclose(acted[0], plain[0], atol=1e-3)
    assert_close(acted[1], plain[1])


def test_the_trained_token_weight_is_multiplied_by_the_node(miniature):
    from dataclasses import replace

    nodes: Any = importlib.import_module("nodes")
    (encoder,) = (
        module("nodes.encoder").LoadNestedEncoder.execute("(shipped) person.safetensors").args
    )
    image = torch.rand(1, 64, 64, 3)
    encode = module("nodes.subject").EncodeSubject.execute
    (subject,) = encode(encoder, miniature.clip_vision, image, "anna").args
    assert subject.token_weight == encoder.info.token_weight > 1

    def latent(who: Any, weight: float) -> torch.Tensor:
        apply = module("nodes.apply").ApplyNestedAttention.execute
        model, clip = apply(miniature.model, miniature.clip, who, 1.0, token_weight=weight).args
        text = nodes.CLIPTextEncode().encode
        empty = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
        return nodes.common_ksampler(
            model, 1, 2, 2.0, "euler", "simple",
            text(clip, "a <anna>")[0], text(clip, "")[0], empty,
        )[0]["samples"]  # fmt: skip

    doubled = replace(subject, token_weight=2 * subject.token_weight)
    assert torch.equal(latent(subject, 2.0), latent(doubled, 1.0))
    assert not torch.equal(latent(subject, 2.0), latent(subject, 1.0))
