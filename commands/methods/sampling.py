"""Batches of different prompts and subjects through the host's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import pack
from stages.common import core, host

from .prompts import Reader, Texts

CONDITIONAL = 0  # the host's number for rows of the positive prompt


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; a sampler that draws noise on its way would mix the rows' seeds."""

    steps: int = 10
    cfg: float = 3.0
    sampler: str = "euler"
    scheduler: str = "simple"
    size: int = 128


@dataclass(frozen=True)
class Cast:
    """One subject in each picture of a batch, or none where its positions are all -1.

    features (B, L, d) of the references, positions (B, P) int64 rows of the context.
    """

    method: Any
    features: Tensor
    positions: Tensor
    strength: float = 1.0


@dataclass(frozen=True)
class Studio:
    """The miniature's four models; `read` encodes prompts."""

    model: Any
    clip: Any
    vae: Any
    vision: Any
    read: Reader = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", Reader(self.clip))

    def features(self, images: Tensor) -> Tensor:
        """Reference pictures (B, H, W, 3), 0 to 1, to image features (B, L, d)."""
        parts = [self.vision.encode_image(part)["last_hidden_state"] for part in images.split(64)]
        return torch.cat(parts).float()

    @torch.no_grad()
    def latents(
        self,
        texts: Texts,
        seeds: Sequence[int],
        casts: Sequence[Cast] = (),
        settings: Settings = Settings(),
        separation: Any = None,
    ) -> Tensor:
        """(B, C, h, w) in one run of the host's sampler; rows do not depend on their mates.

        A row's noise is what the host draws for one picture of its seed. Without casts it is the
        plain base. All casts must be of methods that attend alike. The empty negative prompt never
        has a subject. With a separation, the casts of each picture are kept apart by it, which is
        for nested attention only.
        """
        model, context = self.model, texts.context
        if casts:
            context, items = _injected(casts, context.to(model.load_device))
            model = _with_items(model, casts[0].method.attend, items, separation)
        sample, empty = host("comfy.sample"), self._empty(settings.size, len(seeds))
        noise = torch.cat([sample.prepare_noise(empty[:1], seed) for seed in seeds])
        return sample.sample(
            model,
            noise,
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            [[context, {}]],
            [[self.read([""]).context, {}]],
            empty,
            disable_pbar=True,
            seed=0,
        )

    def draw(
        self,
        texts: Texts,
        seeds: Sequence[int],
        casts: Sequence[Cast] = (),
        settings: Settings = Settings(),
        separation: Any = None,
    ) -> Tensor:
        """As latents, but pictures (B, H, W, 3), 0 to 1."""
        latents = self.latents(texts, seeds, casts, settings, separation)
        return self.vae.decode(latents).float().cpu()

    def _empty(self, size: int, count: int) -> Tensor:
        channels = self.model.get_model_object("latent_format").latent_channels
        return torch.zeros(count, channels, size // 8, size // 8)


def _injected(casts: Sequence[Cast], context: Tensor) -> tuple[Tensor, Mapping[str, list[Any]]]:
    """The context after all casts, and what each site has to do."""
    items: dict[str, list[Any]] = {}
    for cast in casts:
        features = cast.features.to(context)
        injection = cast.method(features, context, cast.positions, cast.strength)
        context = injection.context
        for site, found in injection.sites.items():
            items.setdefault(site, []).extend(found)
    return context, items


def _with_items(
    model: Any, attend: Callable[..., Tensor], items: Mapping[str, list[Any]], separation: Any
) -> Any:
    """A clone of the host's MODEL with the items on its sites, in calls for the positive prompt."""
    patch, sites = pack.module("nodes.host.patch"), pack.module("nodes.host.sites")
    separating = pack.module("nodes.host.separating")
    clone = model.clone()
    found = sites.discover_sites(clone.get_model_object("diffusion_model"))
    for site in found:
        clone.set_model_attn2_replace(patch.NestedPatch(site.name, attend=attend), *site.key)
    several = max(map(len, items.values()), default=0)
    memory: dict[Any, Any] = {}  # of this one run

    def run(apply_model: Callable[..., Tensor], call: Mapping[str, Any]) -> Tensor:
        """The host's call, one prompt at a time: the items are for rows of the positive one."""
        kinds, outputs = call["cond_or_uncond"], []
        for at, kind in enumerate(kinds):
            noised, timestep, given = _part(call, at, len(kinds))
            options = given["transformer_options"]
            options["cond_or_uncond"] = [kind]
            if kind == CONDITIONAL:
                claims = None
                if separation is not None and several > 1:
                    rows, subjects = range(len(noised)), range(several)
                    claims = core("separation").Claims(separation, rows, subjects, memory)
                options[patch.PLAN] = patch.NestedPlan(len(noised), items, claims)
                if claims is not None and claims.settings.bounded:
                    given["transformer_options"] = separating.bounded_self_attention(
                        options, [site.key for site in found]
                    )
            outputs.append(apply_model(noised, timestep, **given))
        return torch.cat(outputs)

    clone.set_model_unet_function_wrapper(run)
    return clone


def _part(call: Mapping[str, Any], at: int, parts: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Input, time step and further arguments of one prompt's rows, the options copied."""

    def cut(value: Any) -> Any:
        return value.chunk(parts)[at] if isinstance(value, Tensor) else value

    given = {name: cut(value) for name, value in call["c"].items()}
    given["transformer_options"] = dict(given["transformer_options"])
    return cut(call["input"]), cut(call["timestep"]), given
