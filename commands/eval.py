"""Measures the shipped encoders on held-out subjects, through the pack's and the host's nodes."""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import pack
from stages.common import MODELS, core, log

SUBJECTS, STEPS, CFG = 32, 20, 3.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py eval", description=__doc__)
    made.add_argument("--json", type=Path, help="write the figures there, too")
    made.add_argument("--out", type=Path, help="folder for contact sheets")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--strength", type=float, default=1.0)
    made.add_argument("--subjects", type=int, default=SUBJECTS, help="held-out subjects a domain")
    made.add_argument("--quick", action="store_true", help="8 subjects a domain")
    return made


def prompts_for(domain: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts that start with {}: one scene each in turn, and what varies; with the scene."""
    drawing, scenes = core("training.miniature.drawing"), core("training.miniature.scenes")
    rng = random.Random(f"eval {domain} {seed}")
    names = list(drawing.SCENES)
    made = []
    for number in range(count):
        words = drawing.words_of(domain, rng)
        scene = names[number % len(names)]
        made.append((scenes.caption([scenes.phrase("{}", words)], scene), scene))
    return made


class Graph:
    """The shipped workflow, node by node, in this process."""

    def __init__(self):
        self.host = __import__("nodes")
        self.model, self.clip, self.vae, self.vision = self.call("miniature", "LoadMiniature")
        self.empty = self.encode(self.clip, "")

    @staticmethod
    def call(module: str, node: str, *args, **kwargs) -> tuple:
        return getattr(pack.module(f"nodes.{module}"), node).execute(*args, **kwargs).args

    def encode(self, clip, text: str):
        return self.host.CLIPTextEncode().encode(clip, text)[0]

    def sample(self, model, positive, seed: int):
        """One picture (1, H, W, 3), 0 to 1."""
        latent = self.host.EmptyLatentImage().generate(128, 128, 1)[0]
        done = self.host.common_ksampler(
            model, seed, STEPS, CFG, "euler", "simple", positive, self.empty, latent
        )[0]
        return self.host.VAEDecode().decode(self.vae, done)[0]

    def encoder(self, domain: str):
        """The shipped encoder of a domain."""
        return self.call("encoder", "LoadNestedEncoder", f"(shipped) {domain}.safetensors")[0]

    def subject(self, encoder, image, name: str):
        return self.call("subject", "EncodeSubject", encoder, self.vision, image, name)[0]

    def with_subject(self, subject, prompt: str, seed: int, strength: float):
        model, clip = self.call(
            "apply", "ApplyNestedAttention", self.model, self.clip, subject, strength
        )
        return self.sample(model, self.encode(clip, prompt), seed)


def references(domain: str, count: int, which: str):
    """One real picture of each held-out subject: (n, H, W, 3) in 0..1."""
    import numpy as np
    import torch

    pool = core("training.miniature.identities").identities(domain, held_out=True)[:count]
    render = core("training.miniature.scenes").render
    drawn = [np.asarray(render((who,), f"{which} {who.key}").image) for who in pool]
    return torch.from_numpy(np.stack(drawn)).float() / 255


def load_ruler():
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = str(MODELS / "ruler.safetensors")
    with safe_open(path, "pt") as file:
        accuracy = json.loads(file.metadata()["accuracy"])
    heads = core("training.miniature.attributes").heads()
    ruler = core("evaluation.ruler").Ruler(heads, accuracy)
    state = load_file(path)
    ruler.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return ruler.eval()


def as_input(images):
    """(n, H, W, 3) in 0..1 -> what the ruler reads"""
    return images.movedim(-1, 1) * 2 - 1


def scenes_right(ruler, images, scenes):
    import torch

    names = list(core("training.miniature.drawing").SCENES)
    with torch.no_grad():
        guess = ruler(as_input(images))["scene"].argmax(1)
    return guess == torch.tensor([names.index(scene) for scene in scenes])


def evaluate(graph: Graph, ruler, domain: str, arguments: argparse.Namespace) -> dict:
    import torch

    measures = core("evaluation.measures")
    count = arguments.subjects
    first, second = references(domain, count, "reference"), references(domain, count, "second")
    encoder = graph.encoder(domain)
    ours, plain, scenes = [], [], []
    for row, (prompt, scene) in enumerate(prompts_for(domain, count, arguments.seed)):
        seed = arguments.seed * 1000 + row
        subject = graph.subject(encoder, first[row : row + 1], "anna")
        named = prompt.format("<anna>")
        ours.append(graph.with_subject(subject, named, seed, arguments.strength))
        positive = graph.encode(graph.clip, prompt.format(domain))
        plain.append(graph.sample(graph.model, positive, seed))
        scenes.append(scene)
        if (row + 1) % 8 == 0:
            log(f"{domain}: {row + 1} of {count} subjects")
    ours, plain = torch.cat(ours), torch.cat(plain)
    right = torch.arange(count)
    embedded, gallery, other = (
        ruler.embed(as_input(images), domain) for images in (ours, first, second)
    )
    identity = measures.normalised_identity(embedded, gallery, other, right)
    hits = measures.retrieved(embedded, gallery, right)
    real_hits = measures.retrieved(other, gallery, right)
    plain_hits = measures.retrieved(ruler.embed(as_input(plain), domain), gallery, right)
    drawn = scenes_right(ruler, ours, scenes).double()
    base = scenes_right(ruler, plain, scenes).double()
    if arguments.out:
        write_sheet(arguments.out / f"{domain}.png", first, ours, plain)
    return {
        "identity": round(float(identity.mean()), 4),
        "identity_ci": measures.bootstrap_interval(identity, arguments.seed),
        "retrieval_at_1": round(float(hits.double().mean()), 4),
        "retrieval_at_1_ci": measures.bootstrap_interval(hits.double(), arguments.seed),
        "retrieval_at_1_real": round(float(real_hits.double().mean()), 4),
        "retrieval_at_1_without": round(float(plain_hits.double().mean()), 4),
        "gallery": count,
        "prompt": round(float(drawn.mean()), 4),
        "prompt_base": round(float(base.mean()), 4),
        "prompt_relative": round(float(drawn.mean() / base.mean().clamp_min(1e-9)), 4),
        "prompt_relative_ci": measures.bootstrap_ratio_interval(drawn, base, arguments.seed),
    }


def write_sheet(path: Path, *rows) -> None:
    """Reference, generated, and the same seed and prompt without the subject, under each other."""
    import torch
    from PIL import Image

    strips = [torch.cat(list(images.clamp(0, 1)), 1) for images in rows]
    halves = [strip.chunk(2, 1) for strip in strips]
    table = torch.cat([strip[half] for half in (0, 1) for strip in halves])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((table * 255).round().byte().numpy()).save(path)


def main() -> int:
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.subjects = 8
    pack.start_host()
    started = time.monotonic()
    graph, ruler = Graph(), load_ruler()
    domains = core("training.miniature.identities").DOMAINS
    found = {d: evaluate(graph, ruler, d, arguments) for d in domains}
    report = {
        "seed": arguments.seed,
        "images_per_domain": arguments.subjects,
        "domains": found,
        "methods": {
            "nested attention": [
                {
                    "strength": arguments.strength,
                    "identity": sum(f["identity"] for f in found.values()) / len(found),
                    "prompt_relative": sum(f["prompt_relative"] for f in found.values())
                    / len(found),
                }
            ]
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
