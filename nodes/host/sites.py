"""Finding the cross-attention sites of a loaded diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from torch import Tensor, nn

from ...nested_attn_core.errors import NestedAttentionError
from ...nested_attn_core.layers import layer_groups
from ...nested_attn_core.projections import Site

# The host's models in whose attention text and image are one sequence.
_JOINT_ATTENTION = tuple(
    f"comfy.ldm.{name}"
    for name in (
        "flux",
        "chroma",
        "modules.diffusionmodules.mmdit",
        "aura",
        "lumina",
        "qwen_image",
        "hidream",
        "omnigen",
        "hunyuan_video",
        "genmo",
    )
)


def discover_sites(diffusion_model: nn.Module) -> tuple[Site, ...]:
    """Every cross-attention site of ``diffusion_model``, in the order in which it runs.

    A site's (block, number, index) is the key under which the host looks up a replacement of
    its attention. Raises NestedAttentionError where the model has no such sites.
    """
    sites = tuple(
        _site(block, number, index, attention)
        for block, number, index, attention, _ in _cross_attentions(diffusion_model)
    )
    if not sites:
        raise NestedAttentionError(_why_none(type(diffusion_model)))
    return sites


def site_projections(diffusion_model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The model's own (to_k.weight, to_v.weight) by site name, each (width, context dim)."""
    return {
        _site(block, number, index, attention).name: (attention.to_k.weight, attention.to_v.weight)
        for block, number, index, attention, _ in _cross_attentions(diffusion_model)
    }


def site_groups(diffusion_model: nn.Module) -> dict[str, str]:
    """The group of layers ("coarse", "middle", "fine") of each site, by site name."""
    return layer_groups(
        {
            _site(block, number, index, attention).name: reduction
            for block, number, index, attention, reduction in _cross_attentions(diffusion_model)
        }
    )


def _why_none(kind: type) -> str:
    if kind.__module__.startswith(_JOINT_ATTENTION):
        return (
            f"This model ({kind.__name__}) has joint attention of text and image in place of text "
            "cross-attention, for which nested attention is planned but not built yet; use a model "
            "with a UNet, of the SD1.5, SD2 or SDXL family."
        )
    return (
        f"This model ({kind.__name__}) has no cross-attention that a patch can reach; use a model "
        "with a UNet, of the SD1.5, SD2 or SDXL family."
    )


def _site(block: str, number: int, index: int, attention: Any) -> Site:
    # Not from to_k's weight, which quantised layers keep in another shape.
    return Site(block, number, index, attention.heads * attention.dim_head)


def _cross_attentions(diffusion_model: nn.Module) -> Iterator[tuple[str, int, int, Any, int]]:
    """Block, number, index and attention of each site, and by how much its map is smaller than the
    latent."""
    reduction = 1
    for block, number, container in _containers(diffusion_model):
        for module in container.children():
            resized = getattr(module, "h_upd", module)  # where a residual block does it
            if isinstance(resized, Downsample):
                reduction *= 2
            elif isinstance(resized, Upsample):
                reduction //= 2
            # A video transformer shares its key with temporal attention, which is no site of ours.
            if not isinstance(module, SpatialTransformer) or isinstance(
                module, SpatialVideoTransformer
            ):
                continue
            layers: Any = module.transformer_blocks
            for index, layer in enumerate(layers):
                if layer.attn2 is not None and not layer.switch_temporal_ca_to_sa:
                    yield block, number, index, layer.attn2, reduction


def _containers(diffusion_model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    for number, module in enumerate(getattr(diffusion_model, "input_blocks", ())):
        yield "input", number, module
    middle = getattr(diffusion_model, "middle_block", None)
    if middle is not None:
        yield "middle", 0, middle
    for number, module in enumerate(getattr(diffusion_model, "output_blocks", ())):
        yield "output", number, module
