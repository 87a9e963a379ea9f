"""Trains one domain's nested encoder on the frozen miniature; writes models/DOMAIN.safetensors."""

from __future__ import annotations

import argparse
import sys

import torch

import pack

from .base import encode_all, patch_code
from .common import MODELS, STATE, core, log, tokenizer

TOKENS, WIDTH, DEPTH, HEADS = 16, 192, 3, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", choices=core("training.miniature.identities").DOMAINS)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--norm", choices=("text", "none"), default="text")
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--token-weight", type=float, default=16.0)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--name", default=None, help="file name in models/ (default: the domain)")


def text_tower(parts, about):
    tower = core("training.miniature.clip_layout").TextTower(
        about["text"], len(about["token_ids"]) + 1
    )
    tower.load_state_dict(parts["text"])
    return tower.requires_grad_(False).eval()


def vision_features(vision, images) -> torch.Tensor:
    """Features of all pictures by the host's own CLIP vision class, fp16 (n, L, width)."""
    found = []
    with torch.no_grad():
        for i in range(0, len(images), 128):
            batch = torch.from_numpy(images[i : i + 128]).float() / 255
            found.append(vision.encode_image(batch)["last_hidden_state"].half())
    return torch.cat(found)


def plain_caption(record: dict) -> str:
    """The caption with nothing but the class word for who is in it."""
    scenes = core("training.miniature.scenes")
    parts = [
        scenes.phrase(subject[0], words)
        for subject, words in zip(record["subjects"], record["words"], strict=True)
    ]
    return scenes.caption(parts, record["scene"])


def identity_key(record: dict, domain: str) -> str | None:
    for found, *values in record["subjects"]:
        if found == domain:
            return "-".join(map(str, values))
    return None


def pictures(domain: str, about: dict, vision):
    """The domain's training pictures; latents and features computed once."""
    images, records = core("training.miniature.dataset").load(STATE / "data")
    code = patch_code(images)
    rows = [i for i, r in enumerate(records) if any(s[0] == domain for s in r["subjects"])]
    images, records = images[rows], [records[i] for i in rows]
    latents = encode_all(code, images).half()
    features = vision_features(vision, images)
    tokenize = tokenizer()
    ids = torch.tensor([tokenize(plain_caption(record)) for record in records])
    (word,) = [token for token in tokenize(domain)[1:] if token != 49407]
    places = (ids == word).int().argmax(1)
    vocabulary = core("training.miniature.vocabulary").Vocabulary(about["token_ids"])
    tokens = torch.tensor([vocabulary.rows(row) for row in ids.tolist()])
    return core("training.encoder").SubjectPictures(
        features=features,
        latents=latents,
        tokens=tokens,
        positions=places,
        identity=[identity_key(record, domain) for record in records],
        reference=[core("training.miniature.dataset").shows_well(record) for record in records],
    )


def build(sites, projections, about, seed: int, tokens: int):
    module = core("encoder")
    config = module.EncoderConfig(
        feature_dim=about["vision"]["hidden_size"],
        tokens=tokens,
        token_dim=about["unet"]["context_dim"],
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        head_dim=WIDTH // HEADS,
        ff_mult=2,
        sites=sites,
    )
    torch.manual_seed(seed)
    encoder = module.NestedEncoder(config)
    encoder.projections.init_from(projections)
    return encoder


def run(arguments: argparse.Namespace) -> None:
    host = pack.module("nodes.host.miniature")
    parts, about = host.read()
    miniature = host.load_miniature()
    unet = miniature.model.model.diffusion_model.to(memory_format=torch.channels_last)
    denoise = pack.module("nodes.host.training").PatchedDenoiser(unet)
    projections = pack.module("nodes.host.sites").site_projections(unet)
    encoder = build(denoise.sites, projections, about, arguments.seed, arguments.tokens)
    log(f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters")
    norm = core("attention").NormControl(arguments.norm, arguments.factor)
    text = text_tower(parts, about)
    data = pictures(arguments.domain, about, miniature.clip_vision)
    log(f"{len(data.targets)} targets of {len(set(data.identity))} identities")
    training, loop = core("training.encoder"), core("training.loop")
    name = arguments.name or arguments.domain
    checkpoint, fingerprints = core("checkpoint"), core("fingerprint")
    info = checkpoint.EncoderInfo(
        base_family="miniature",
        config=encoder.config,
        backbone=checkpoint.Backbone(
            kind="the miniature's CLIP_VISION (Load Miniature)",
            fingerprint=fingerprints.weights_fingerprint(miniature.clip_vision.model.state_dict()),
            image_size=about["vision"]["image_size"],
        ),
        domain=arguments.domain,
        class_word=arguments.domain,
        norm=norm,
        token_weight=arguments.token_weight,
        licence="CC-BY-4.0",
        trained_on=f"{len(data.targets)} drawn pictures of {len(set(data.identity))} identities",
        command="dev.py train " + " ".join(sys.argv[1:]),
        steps=arguments.steps,
    )

    def write(step: int, averaged) -> None:
        copy = core("encoder").NestedEncoder(encoder.config)
        copy.load_state_dict(averaged)
        checkpoint.save_encoder(MODELS / f"{name}.safetensors", copy, info, torch.float16)

    method = core("training.methods").NestedMethod(encoder, norm, arguments.token_weight)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return training.loss(method, data, denoise, text, generator)

    loop.train(
        encoder,
        loss,
        loop.Schedule(
            steps=arguments.steps,
            rate=arguments.rate,
            seed=arguments.seed,
            warmup=50,
            average=0.99,
        ),
        STATE / f"encoder_{name}",
        log,
        write,
    )
