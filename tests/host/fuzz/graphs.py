"""Graphs that the fuzz tests begin with; every part of them is in order."""

from __future__ import annotations

from typing import Any

from .bench import Graph, node

BASE = {"base": node("FuzzBase")}
MODEL, CLIP, VISION, ENCODER, LATENT = (["base", slot] for slot in range(5))
SETTINGS: dict[str, Any] = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
LAYERS = {"coarse": 1.0, "middle": 1.0, "fine": 1.0, "token_weight": 1.0}


def sink(source: str, slot: int = 0) -> Graph:
    return {"sink": node("FuzzSink", value=[source, slot])}


def applied(subject: str, slot: int = 0, **settings: Any) -> Graph:
    """Apply on the base."""
    inputs = {"model": MODEL, "clip": CLIP, "subject": [subject, slot], **SETTINGS, **settings}
    return {"apply": node("NestedAttentionApply", **inputs)}


def sampled(
    text: str = "a photo of <anna>", encode: str = "CLIPTextEncode", model="apply"
) -> Graph:
    """A prompt and one step of sampling with what Apply gives, into the sink."""
    return {
        "positive": node(encode, clip=["apply", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["apply", 1], text=""),
        "sample": node(
            "KSampler", model=[model, 0], seed=1, steps=1, cfg=2.0, sampler_name="euler",
            scheduler="normal", positive=["positive", 0], negative=["negative", 0],
            latent_image=LATENT, denoise=1.0,
        ),
        **sink("sample"),
    }  # fmt: skip


def everything() -> Graph:
    """Every node that makes an image, with all its widgets, none of them wrong."""
    return {
        **BASE,
        "image": node("EmptyImage", width=48, height=40, batch_size=1, color=255),
        "subject": node(
            "NestedAttentionEncodeSubject", encoder=ENCODER, clip_vision=VISION,
            image=["image", 0], name="anna", framing="pad",
        ),
        "set": node("NestedAttentionSubjectSettings", subject=["subject", 0], **SETTINGS, **LAYERS),
        "other": node(
            "NestedAttentionEncodeSubject", encoder=ENCODER, clip_vision=VISION,
            image=["image", 0], name="rex",
        ),
        "both": node(
            "NestedAttentionCombineSubjects", subject_1=["set", 0], subject_2=["other", 0]
        ),
        "save": node("NestedAttentionSaveSubject", subject=["other", 0], filename="saved"),
        "watch": node("NestedAttentionWatch", model=["apply", 0]),
        **applied("both", norm="as trained", norm_factor=2.0, token_weight=1.0),
        **sampled("a <anna> and a <rex>", "NestedAttentionPrompt", "watch"),
        "maps": node(
            "NestedAttentionMaps", recorder=["watch", 1], image=["late", 0], steps="all",
            layers="all",
        ),
        # An image that is there only after the sampling, as a decoded one.
        "late": node("FuzzAfter", image=["image", 0], latent=["sample", 0]),
        "seen": node("FuzzSink", value=["maps", 2]),
    }  # fmt: skip
