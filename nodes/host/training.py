"""The host's side of training: its UNet with our patch on every site, open to gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nested_attn_core.attention import nested_attention
from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.training.wide_attention import attend_in_fp32
from .patch import PLAN, NestedPatch, NestedPlan
from .sites import discover_sites


class PatchedDenoiser:
    """Calls a diffusion model through the patch objects that Apply Nested Attention installs."""

    def __init__(
        self,
        diffusion_model: nn.Module,
        attend: Callable[..., Tensor] = nested_attention,
    ):
        self.diffusion_model = diffusion_model.requires_grad_(False)
        self.sites = discover_sites(diffusion_model)

        def nested(base: Tensor, *inputs: Any) -> Tensor:
            return attend_in_fp32(functools.partial(attend, base), *inputs)

        self._patches = {site.key: NestedPatch(site.name, attend=nested) for site in self.sites}

    def __call__(
        self,
        scaled: Tensor,
        timestep: Tensor,
        context: Tensor,
        items: Mapping[str, Sequence[Any]],
        **conditions: Tensor,
    ) -> Tensor:
        """The model's output for its input (B, C, h, w), its time step (B,), context (B, T, d) and
        what is done at each site; conditions go to the model by name."""
        options: dict[str, Any] = {
            "patches_replace": {"attn2": dict(self._patches)},
            PLAN: NestedPlan(len(scaled), items),
            "optimized_attention_override": attend_in_fp32,
        }
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        return self.diffusion_model(
            scaled,
            timestep,
            context=context,
            transformer_options=options,
            **conditions,
        )


class FrozenDenoiser:
    """A host MODEL with our patch on every site: what it predicts, in its own terms.

    schedule   the host's description of noise levels and of the prediction type
    """

    def __init__(self, model: Any, attend: Callable[..., Tensor] = nested_attention):
        base = model.model
        self.schedule = model.get_model_object("model_sampling")
        self.dtype: torch.dtype = base.manual_cast_dtype or base.get_dtype()
        self._base = base
        self._patched = PatchedDenoiser(base.diffusion_model, attend)
        self.sites = self._patched.sites

    def compile(self) -> None:
        """Lets torch compile the model, at its first call.

        Raises NestedAttentionError where torch has no compiler for the model's device."""
        _compile_something(next(self._base.diffusion_model.parameters()).device)
        compiled: Any = torch.compile(self._patched.diffusion_model)
        self._patched.diffusion_model = compiled

    def __call__(
        self,
        noised: Tensor,
        sigma: Tensor,
        context: Tensor,
        items: Mapping[str, Sequence[Any]],
        conditions: Mapping[str, Tensor],
    ) -> Tensor:
        """The model's output, fp32, for noised latents (B, C, h, w) at sigma (B,)."""
        scaled = self.schedule.calculate_input(sigma, noised).to(self.dtype)
        moment = self._base.process_timestep(self.schedule.timestep(sigma).float(), x=scaled)
        cast = {name: value.to(self.dtype) for name, value in conditions.items()}
        return self._patched(scaled, moment, context.to(self.dtype), items, **cast).float()


def _compile_something(device: torch.device) -> None:
    """Compiles one addition, so that a missing compiler is noticed before anything is trained."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # torch raises many kinds for many missing things
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NestedAttentionError(
            "run.compile is true, and torch.compile does not work here (it needs a C++ compiler, "
            f"on a GPU also Triton; it says: {reason}); install what is missing, or set "
            "run.compile to false."
        ) from error
