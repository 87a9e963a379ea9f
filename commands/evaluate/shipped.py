"""The shipped nodes on a few of an exam's questions, held against what the batches draw."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

import pack
from methods.sampling import Settings
from stages.common import host

from .artists import NAME
from .exam import Exam
from .studios import Painter


class Graph:
    """The shipped workflow, node by node, in this process."""

    def __init__(self, painter: Painter, domain: str):
        self.studio, self.how = painter.studio, painter.how
        self.nodes = host("nodes")
        self.encoder = self.call("encoder", "LoadNestedEncoder", f"(shipped) {domain}.safetensors")
        self.empty = self.encode(self.studio.clip, "")

    @staticmethod
    def call(module: str, node: str, *inputs: Any) -> Any:
        """The first output of one of the pack's nodes."""
        return getattr(pack.module(f"nodes.{module}"), node).execute(*inputs).args

    def encode(self, clip: Any, text: str) -> Any:
        return self.nodes.CLIPTextEncode().encode(clip, text)[0]

    def applied(self, reference: Tensor, strength: float) -> tuple[Any, Any]:
        """MODEL and CLIP that know the subject of one reference picture (1, H, W, 3)."""
        subject = self.call(
            "subject", "EncodeSubject", *self.encoder, self.studio.vision, reference, NAME
        )
        return self.call(
            "apply",
            "ApplyNestedAttention",
            self.studio.model,
            self.studio.clip,
            *subject,
            strength,
        )

    @torch.no_grad()
    def sample(self, model: Any, clip: Any, prompt: str, seed: int) -> Tensor:
        """One picture (1, H, W, 3), 0 to 1."""
        how: Settings = self.how
        latent = self.nodes.EmptyLatentImage().generate(how.size, how.size, 1)[0]
        settings = seed, how.steps, how.cfg, how.sampler, how.scheduler
        done = self.nodes.common_ksampler(
            model, *settings, self.encode(clip, prompt), self.empty, latent
        )[0]
        return self.nodes.VAEDecode().decode(self.studio.vae, done)[0].cpu()


def node_difference(graph: Graph, painter: Painter, exam: Exam, artist: Any, rows: int) -> float:
    """Largest difference (of pictures from 0 to 1) between nodes and batches on the first rows."""
    who = exam.who[:rows]
    drawn = artist.draw(painter, exam.features[who], exam.prompts[:rows], exam.seeds[:rows], 1.0)
    largest = 0.0
    for row in range(rows):
        model, clip = graph.applied(exam.pictures[who[row]][None], 1.0)
        one = graph.sample(model, clip, exam.prompts[row], exam.seeds[row])
        largest = max(largest, float((one[0] - drawn[row]).abs().max()))
    return largest


def prior_change(graph: Graph, exam: Exam, rows: int) -> float:
    """Largest change, by the applied node, of pictures whose prompts name no subject."""
    largest = 0.0
    # That no prompt names the subject is the point here, and no reason to warn.
    logging.getLogger("nested_attention").setLevel(logging.ERROR)
    for row in range(rows):
        model, clip = graph.applied(exam.pictures[exam.who[row]][None], 1.0)
        prompt, seed = exam.captions[row], exam.seeds[row]
        without = graph.sample(graph.studio.model, graph.studio.clip, prompt, seed)
        largest = max(
            largest, float((graph.sample(model, clip, prompt, seed) - without).abs().max())
        )
    return largest
