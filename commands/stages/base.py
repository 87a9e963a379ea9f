"""Trains the miniature's base model on the host's UNet class."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from . import precision, shipped
from .common import STATE, core, device, host, log, threads, tokenizer

CODE = STATE / "base" / "code.pt"
FACES = STATE / "base" / "faces.pt"
FACE_WEIGHT = 4.0
CROWN_WEIGHT = 3.0
SCENE_WEIGHT = 1 / 6
OFTEN = {"person": 1.5, "robot": 2.5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=5200)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--seed", type=int, default=0)
    precision.add_argument(parser)
    shipped.add_argument(parser)


def pixels(images) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> float (n, 3, H, W) in -1..1"""
    return torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1


def decibels(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Peak signal to noise of pixels in -1..1."""
    return float(10 * torch.log10(4 / (found - wanted).square().mean()))


def patch_code(images):
    """The latent code: fitted once, on every eighth picture, since all weights depend on it."""
    latents, config = core("training.miniature.latents"), core("training.miniature.config")
    known = known_code()
    if known is None:
        return latents.PatchCode.fit(pixels(images[::8]), config.LATENT_CHANNELS, config.PATCH)
    return latents.PatchCode.of(known, config.PATCH)


def known_code() -> dict[str, torch.Tensor] | None:
    """The latent code and the words of a base trained earlier, or None."""
    return core("training.checkpoints").load_state(CODE)


def take_shipped_code() -> None:
    """Keeps the code that ships, where none is known here: shipped weights stand on it."""
    if known_code() is None:
        core("training.checkpoints").save_state(CODE, shipped.code())


def known_words() -> list[int]:
    """Token ids that a base trained earlier knows; they keep their rows."""
    known = known_code()
    return [] if known is None else known["token_ids"].tolist()


def encode_all(code, images) -> torch.Tensor:
    return torch.cat([code.encode(pixels(images[i : i + 256])) for i in range(0, len(images), 256)])


def error_weights(images, records) -> torch.Tensor:
    """(n, h, w): subjects and what is around them count six times as much as scenes, which are
    learned soon; heads and hair, whose shapes are learned last, three times as much as bodies;
    mouths and eyes, which are a few cells, four times."""
    masks = core("training.miniature.masks")
    found = torch.stack([masks.subjects_mask(i, r) for i, r in zip(images, records, strict=True)])
    near = torch.stack([masks.margin_mask(each) for each in found])
    crowns = torch.stack([masks.crown_mask(each) for each in found])
    crowns[[all(s[0] == "kitten" for s in record["subjects"]) for record in records]] = False
    weights = torch.where(near, 1.0, SCENE_WEIGHT)
    weights = torch.where(crowns, CROWN_WEIGHT, weights)
    return torch.where(faces(images), FACE_WEIGHT, weights).half()


def face_of(image, job):
    # NumPy: a tensor would hold a file open for each picture on its way between processes.
    return core("training.miniature.masks").faces_mask(image, *job).numpy()


def faces(images) -> torch.Tensor:
    """bool (n, h, w) of all training pictures, found once and kept. A kitten alone has none here:
    its eyes are large, and learned as soon as the rest."""
    states = core("training.checkpoints")
    known = states.load_state(FACES)
    if known is None:
        log("looking where the faces are")
        jobs = core("training.miniature.dataset").Plan().jobs()
        rows = [row for row, (who, _) in enumerate(jobs) if {s.domain for s in who} != {"kitten"}]
        with ProcessPoolExecutor(threads()) as workers:
            asked = (images[row] for row in rows), (jobs[row] for row in rows)
            found = [*workers.map(face_of, *asked, chunksize=100)]
        known = {"faces": torch.zeros(len(jobs), *found[0].shape, dtype=torch.bool)}
        known["faces"][rows] = torch.from_numpy(np.stack(found))
        states.save_state(FACES, known)
    return known["faces"]


def shares(records) -> torch.Tensor:
    """How often each picture is drawn: shapes of heads and of hair are what is learned last, and
    they are large enough in pictures of one subject."""
    names = [" ".join(s[0] for s in record["subjects"]) for record in records]
    return torch.tensor([OFTEN.get(name, 1.0) for name in names])


def build(vocabulary_size: int, seed: int):
    """A fresh base: the host's UNet and the text tower, initialised."""
    config, base = core("training.miniature.config"), core("training.miniature.base")
    towers = core("training.miniature.clip_layout")
    operations = host("comfy.ops").disable_weight_init
    unet = host("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel(
        **config.UNET, dtype=torch.float32, operations=operations
    )
    base.initialise(unet, seed)
    precision.norms_in_fp32(unet)
    text = towers.TextTower(config.TEXT, vocabulary_size)
    return base.Base(unet, text).to(memory_format=torch.channels_last)


def run(arguments: argparse.Namespace) -> None:
    loop, base = core("training.loop"), core("training.miniature.base")
    if arguments.from_shipped:
        take_shipped_code()
    images, records = core("training.miniature.dataset").load(STATE / "data")
    captions = [record["caption"] for record in records]
    vocabulary = core("training.miniature.vocabulary").Vocabulary.of(
        captions, tokenizer(), known_words()
    )
    code = patch_code(images)
    latents = encode_all(code, images)
    sample = pixels(images[:64])
    log(
        f"{len(images)} pictures, {len(vocabulary)} words, deviation {latents.std():.2f}, "
        f"linear code {decibels(code.decode(code.encode(sample)), sample):.1f} dB"
    )
    weights, often = error_weights(images, records), shares(records)
    del images
    folder = STATE / "base"
    folder.mkdir(parents=True, exist_ok=True)
    core("training.checkpoints").save_state(
        CODE, {**code.state(), "token_ids": torch.tensor(vocabulary.token_ids)}
    )
    tokens = vocabulary.encode(captions, tokenizer())
    told = core("training.miniature.scenes").told
    named = vocabulary.encode([told(record) for record in records], tokenizer())
    empty = vocabulary.encode([""], tokenizer())[0]
    model = build(len(vocabulary), arguments.seed)
    if arguments.from_shipped:
        shipped.copy_into(model, shipped.parts("unet", "text"))
    model.to(device())
    products = precision.chosen(arguments)
    log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {products}")
    batches = base.Batches(latents, tokens, named, empty, weights, often)

    @precision.mixed(products)
    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        return batches.loss(model, generator)

    schedule = loop.Schedule(
        steps=arguments.steps,
        rate=arguments.rate,
        warmup=300,
        weight_decay=0.05,
        seed=arguments.seed,
        optimiser=arguments.optimiser,
    )
    loop.train(model, loss, schedule, folder, log)
