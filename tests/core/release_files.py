"""Files as the authors may have released them: one structure under many names.

Nothing here is taken from the loader: places, order and the resampler are written down anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

# diffusers' attention processors, in its order; the host's name of the same place beside each.
_BLOCKS = {
    "sdxl": [
        *((f"down_blocks.1.attentions.{a}", f"input.{4 + a}", 2, 1) for a in range(2)),
        *((f"down_blocks.2.attentions.{a}", f"input.{7 + a}", 10, 2) for a in range(2)),
        *((f"up_blocks.0.attentions.{a}", f"output.{a}", 10, 2) for a in range(3)),
        *((f"up_blocks.1.attentions.{a}", f"output.{3 + a}", 2, 1) for a in range(3)),
        ("mid_block.attentions.0", "middle.0", 10, 2),
    ],
    "sd15": [
        *((f"down_blocks.0.attentions.{a}", f"input.{1 + a}", 1, 1) for a in range(2)),
        *((f"down_blocks.1.attentions.{a}", f"input.{4 + a}", 1, 2) for a in range(2)),
        *((f"down_blocks.2.attentions.{a}", f"input.{7 + a}", 1, 4) for a in range(2)),
        *((f"up_blocks.1.attentions.{a}", f"output.{3 + a}", 1, 4) for a in range(3)),
        *((f"up_blocks.2.attentions.{a}", f"output.{6 + a}", 1, 2) for a in range(3)),
        *((f"up_blocks.3.attentions.{a}", f"output.{9 + a}", 1, 1) for a in range(3)),
        ("mid_block.attentions.0", "middle.0", 1, 4),
    ],
}


@dataclass(frozen=True)
class Place:
    """One cross-attention: diffusers' path of its processor, the host's name, its width factor."""

    path: str
    site: str
    factor: int


PLACES = {
    family: [
        Place(f"{path}.transformer_blocks.{t}.attn2.processor", f"{site}.{t}", factor)
        for path, site, depth, factor in blocks
        for t in range(depth)
    ]
    for family, blocks in _BLOCKS.items()
}


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        image, latents = self.norm1(image), self.norm2(latents)
        both = self.to_kv(torch.cat([image, latents], 1))
        inner = self.heads * self.dim_head
        keys, values, queries = both[..., :inner], both[..., inner:], self.to_q(latents)
        mixed = []
        for head in range(self.heads):
            part = slice(head * self.dim_head, (head + 1) * self.dim_head)
            logits = queries[..., part] @ keys[..., part].transpose(1, 2) / self.dim_head**0.5
            mixed.append(logits.softmax(-1) @ values[..., part])
        return self.to_out(torch.cat(mixed, -1))


class ReferenceResampler(nn.Module):
    """The resampler that IP-Adapter made known, by its published names and equations."""

    def __init__(
        self, dim: int, depth: int, heads: int, dim_head: int, queries: int, embedding: int,
        output: int, ff_mult: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, queries, dim))
        self.proj_in = nn.Linear(embedding, dim)
        self.proj_out = nn.Linear(dim, output)
        self.norm_out = nn.LayerNorm(output)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _Attention(dim, heads, dim_head),
                    nn.Sequential(
                        nn.LayerNorm(dim),
                        nn.Linear(dim, dim * ff_mult, bias=False),
                        nn.GELU(),
                        nn.Linear(dim * ff_mult, dim, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, image: Tensor) -> Tensor:
        image = self.proj_in(image)
        latents = self.latents.expand(len(image), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer  # type: ignore[misc]
            latents = latents + attention(image, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


@dataclass
class Release:
    """An encoder before it is named: the resampler, and (key, value) in diffusers' order."""

    family: str
    resampler: ReferenceResampler
    pairs: list[tuple[Tensor, Tensor]]

    @property
    def places(self) -> list[Place]:
        return PLACES[self.family]


SMALL = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 64, "queries": 20, "embedding": 12,
         "output": 10, "ff_mult": 3}  # fmt: skip
# facts of the paper's release, and the sizes of IP-Adapter Plus XL where it is not known
FULL_SDXL = {"dim": 1280, "depth": 4, "heads": 20, "dim_head": 64, "queries": 1024,
             "embedding": 1280, "output": 2048, "ff_mult": 4}  # fmt: skip


def release(
    family: str, unit: int = 4, device: str = "cpu", seed: int = 0, **sizes: int
) -> Release:
    """Random weights of the release's structure; `unit` is the smallest attention width."""
    generator = None if device == "meta" else torch.Generator().manual_seed(seed)
    with torch.device(device):
        resampler = ReferenceResampler(**{**SMALL, **sizes})
        if generator is not None:
            with torch.no_grad():
                for parameter in resampler.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        token_dim = resampler.proj_out.out_features
        pairs = [
            (
                torch.randn(unit * place.factor, token_dim, generator=generator),
                torch.randn(unit * place.factor, token_dim, generator=generator),
            )
            for place in PLACES[family]
        ]
    return Release(family, resampler.requires_grad_(False), pairs)


def resampler_state(made: Release, prefix: str, split: bool = False) -> State:
    """The resampler's tensors under a prefix; `split` writes its keys and values apart."""
    state = {}
    for name, tensor in made.resampler.state_dict().items():
        if split and name.endswith("to_kv.weight"):
            stem = name.removesuffix("to_kv.weight")
            state[f"{prefix}{stem}to_k.weight"], state[f"{prefix}{stem}to_v.weight"] = tensor.chunk(
                2
            )
        else:
            state[prefix + name] = tensor
    return state


def _numbered(pattern: str, numbers: Callable[[int], int]) -> Callable[[Release], State]:
    """`pattern` with {n} for the number and {r} for k or v."""

    def name(made: Release) -> State:
        return {
            pattern.format(n=numbers(index), r=role): tensor
            for index, pair in enumerate(made.pairs)
            for role, tensor in zip("kv", pair, strict=True)
        }

    return name


def _by_path(pattern: str, separator: str = ".") -> Callable[[Release], State]:
    """`pattern` with {p} for diffusers' processor path and {r} for k or v."""

    def name(made: Release) -> State:
        return {
            pattern.format(p=place.path.replace(".", separator), r=role): tensor
            for place, pair in zip(made.places, made.pairs, strict=True)
            for role, tensor in zip("kv", pair, strict=True)
        }

    return name


def _fused(pattern: str) -> Callable[[Release], State]:
    def name(made: Release) -> State:
        return {
            pattern.format(n=2 * index + 1): torch.cat(pair)
            for index, pair in enumerate(made.pairs)
        }

    return name


def _odd(index: int) -> int:
    return 2 * index + 1


def _dense(index: int) -> int:
    return index


# The pairs' names; each is one plausible habit of people who write training code.
PAIR_NAMES: dict[str, Callable[[Release], State]] = {
    "odd, nest": _numbered("adapter_modules.{n}.to_{r}_nest.weight", _odd),
    "odd, nested first": _numbered("adapter_modules.{n}.nested_to_{r}.weight", _odd),
    "odd, ip": _numbered("adapter_modules.{n}.to_{r}_ip.weight", _odd),
    "odd, container": _numbered("ip_adapter.{n}.to_{r}_ip.weight", _odd),
    "odd, projections": _numbered("nested_layers.{n}.{r}_proj.weight", _odd),
    "odd, plain": _numbered("adapter_modules.{n}.to_{r}.weight", _odd),
    "odd, fused": _fused("adapter_modules.{n}.to_kv_nest.weight"),
    "odd, in a list": _numbered("attn_procs.{n}.to_{r}_nest.0.weight", _odd),
    "dense": _numbered("adapter_modules.{n}.to_{r}_nest.weight", _dense),
    "dense from one": _numbered("nested.{n}.nested_{r}.weight", lambda index: index + 1),
    "apart, odd": _numbered("to_{r}_nest.{n}.weight", _odd),
    "apart, dense": _numbered("nested_to_{r}.{n}.weight", _dense),
    "apart, dense, deeper": _numbered("heads.to_{r}_list.{n}.linear.weight", _dense),
    "paths": _by_path("unet.{p}.to_{r}_nest.weight"),
    "paths, bare": _by_path("{p}.to_{r}_nest.weight"),
    "paths in a dictionary": _by_path("processors.{p}.nested_to_{r}.weight", "_"),
    "paths, apart": _by_path("{r}_proj.{p}.weight", "_"),
    "paths without processor": lambda made: {
        name.replace(".processor", ""): tensor
        for name, tensor in _by_path("nested.{p}.to_{r}.weight")(made).items()
    },
    "long words": lambda made: {
        f"adapters.{_odd(index)}.nested_{word}.weight": tensor
        for index, pair in enumerate(made.pairs)
        for word, tensor in zip(("keys", "values"), pair, strict=True)
    },
}  # fmt: skip
RESAMPLER_PREFIXES = ("image_proj_model.", "image_proj.", "resampler.", "qformer.", "encoder.head.",
                      "")  # fmt: skip
WRAPPERS = ("", "module.", "model.", "unet.", "_orig_mod.module.", "net.0.")


def named(
    made: Release,
    pairs: str = "odd, nest",
    resampler: str = "image_proj_model.",
    wrapper: str = "",
    split: bool = False,
) -> State:
    """A release under one naming."""
    state = {**resampler_state(made, resampler, split), **PAIR_NAMES[pairs](made)}
    return {wrapper + name: tensor.contiguous() for name, tensor in state.items()}


def base_unet(made: Release, prefix: str) -> State:
    """Names and shapes that a base UNet, saved along, would have, as far as they matter here."""
    token_dim = made.resampler.proj_out.out_features
    state = {"conv_in.weight": torch.zeros(4, 4, 3, 3), "conv_in.bias": torch.zeros(4),
             "conv_norm_out.weight": torch.zeros(4), "conv_out.weight": torch.zeros(4, 4, 3, 3),
             "time_embedding.linear_1.weight": torch.zeros(4, 4)}  # fmt: skip
    for place in made.places:
        attention = place.path.removesuffix(".processor")
        for role in "kv":
            state[f"{attention}.to_{role}.weight"] = torch.zeros(4 * place.factor, token_dim)
        state[f"{attention.removesuffix('2')}1.to_k.weight"] = torch.zeros(4, 4)
    return {prefix + name: tensor for name, tensor in state.items()}


def all_namings() -> Iterator[tuple[str, str, str]]:
    """(pairs, resampler prefix, wrapper), each with each."""
    for pairs in PAIR_NAMES:
        for resampler in RESAMPLER_PREFIXES:
            for wrapper in WRAPPERS:
                yield pairs, resampler, wrapper
