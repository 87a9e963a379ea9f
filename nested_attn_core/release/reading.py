"""Reading an encoder's file without a description of ours, by the structure of its tensors.

The names in the authors' release are not known for sure. What is known is the structure: a
resampler, and one pair of bias-free projections (width, token_dim) for each cross-attention of the
base model. Only that is asked for, and where a file can be read in two ways it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..encoder import EncoderConfig, NestedEncoder
from ..errors import NestedAttentionError
from ..file_kinds import FLOATING, Header
from .frozen_parts import frozen_parts
from .mapping_file import Mapping as MappingFile
from .mapping_file import mapping_path, read_mapping
from .pairs import Pairs, find_pairs, named_pairs
from .resampler import find_resamplers, map_resampler, resampler_sizes
from .structures import STRUCTURES, in_host_order, known_counts

Shape = tuple[int, ...]
# The most tokens that any published IP-Adapter with a resampler has.
IP_ADAPTER_TOKENS = 16
_FUSED = ".to_kv.weight"
_SHOWN = 4


@dataclass(frozen=True)
class Source:
    """Where a tensor of ours lies in the file: a whole tensor (part None), or the upper (0) or
    lower (1) half of one whose rows hold keys above values."""

    name: str
    part: int | None = None


@dataclass(frozen=True)
class Reading:
    """What a file is, and where each tensor of ours lies in it.

    aside    what was not read: number of tensors by what they are
    assumed  what no shape tells, in words
    """

    family: str
    config: EncoderConfig
    sources: dict[str, Source]
    aside: dict[str, int]
    assumed: tuple[str, ...]
    mapping: MappingFile


def read_structure(path: Path, header: Header) -> Reading | None:
    """The reading of a file, from its header alone; None for a file that has no resampler.

    Raises NestedAttentionError in one sentence, with what was seen, for a file that has one but
    is incomplete, of an unknown shape, or to be read in two ways.
    """
    mapping = read_mapping(path)
    shapes = {name: shape for name, (_, shape) in header.tensors.items()}
    if mapping is None and not find_resamplers(shapes):
        return None
    try:
        return _read(shapes, header, mapping or MappingFile())
    except NestedAttentionError as error:
        raise NestedAttentionError(
            f'"{path.name}" has no description of this pack and was read by its structure, but '
            f'{error}; get the original file, or say in "{mapping_path(path).name}" what its '
            "tensors are (docs/weights.md)."
        ) from error


def _read(shapes: dict[str, Shape], header: Header, mapping: MappingFile) -> Reading:
    """Raises NestedAttentionError with a clause."""
    named, frozen = _named(shapes, mapping), frozen_parts(shapes)
    resampler = _part(named, "resampler.") or _resampler(shapes, mapping)
    ours = {name: shapes[source] for name, source in resampler.items()}
    sizes = resampler_sizes(ours, mapping.head_dim)
    taken = set(resampler.values()).union(*(part.names for part in frozen))
    rest = {name: shape for name, shape in shapes.items() if name not in taken}
    pairs = _named_sites(named, shapes) or _pairs(rest, shapes, mapping, sizes["token_dim"])
    _check_ip_adapter(pairs, sizes["tokens"], mapping)
    config = EncoderConfig(**sizes, sites=pairs.sites)
    names = {**resampler, **pairs.names}
    aside = {
        f"{part.what} ({part.prefix or 'no prefix'})": len(part.names - set(names.values()))
        for part in frozen
    }
    left = set(shapes) - taken - set(names.values())
    ignored = {name for name in left if name.startswith(mapping.ignore)}
    if ignored:
        aside["what the mapping file ignores"] = len(ignored)
    _check_left(left - ignored)
    sources = _sources(names)
    _check_tensors(config, sources, header)
    assumed = () if mapping.head_dim else (f"heads of {sizes['head_dim']}",)
    return Reading(pairs.family, config, sources, aside, assumed, mapping)


def _named(shapes: Mapping[str, Shape], mapping: MappingFile) -> dict[str, str]:
    for source in mapping.tensors.values():
        if source not in shapes:
            raise NestedAttentionError(f"it has no tensor {source}, which the mapping file names")
    return mapping.tensors


def _part(named: Mapping[str, str], beginning: str) -> dict[str, str]:
    return {name: source for name, source in named.items() if name.startswith(beginning)}


def _resampler(shapes: Mapping[str, Shape], mapping: MappingFile) -> dict[str, str]:
    prefixes = find_resamplers(shapes)
    if mapping.resampler is not None:
        prefixes = [prefix for prefix in prefixes if prefix == mapping.resampler]
    if not prefixes:
        place = "" if mapping.resampler is None else f" at {mapping.resampler}"
        raise NestedAttentionError(f"it has no resampler{place}")
    if len(prefixes) > 1:
        seen = ", ".join(f"{prefix}latents" for prefix in prefixes)
        raise NestedAttentionError(f"it has {len(prefixes)} resamplers: {seen}")
    return map_resampler(shapes, prefixes[0])


def _pairs(
    rest: Mapping[str, Shape], shapes: Mapping[str, Shape], mapping: MappingFile, token_dim: int
) -> Pairs:
    if mapping.keys:
        return named_pairs(shapes, mapping.keys, mapping.values)
    kept = {name: shape for name, shape in rest.items() if not name.startswith(mapping.ignore)}
    return find_pairs(kept, token_dim)


def _named_sites(named: Mapping[str, str], shapes: Mapping[str, Shape]) -> Pairs | None:
    """The pairs that a mapping file lists one by one under our names."""
    names = _part(named, "projections.")
    if not names:
        return None
    widths: dict[tuple[str, int, int], int] = {}
    for name, source in names.items():
        parts = name.split(".")
        if len(parts) != 6 or not (parts[2] + parts[3]).isdecimal() or len(shapes[source]) != 2:
            raise NestedAttentionError(f"the mapping file's {name} is no name of a projection")
        fused = name.endswith(_FUSED)
        widths[parts[1], int(parts[2]), int(parts[3])] = shapes[source][0] // (2 if fused else 1)
    for structure in STRUCTURES:
        places = [place[:3] for place in structure.places()]
        if set(places) == set(widths):
            sites = structure.sites([widths[place] for place in places])
            if sites is not None:
                return Pairs(structure.family, "", in_host_order(sites), names)
    raise NestedAttentionError(
        f"the mapping file names {len(widths)} places, which are not those of a model known: "
        f"{known_counts()}"
    )


def _check_ip_adapter(pairs: Pairs, tokens: int, mapping: MappingFile) -> None:
    told = mapping.keys or mapping.tensors
    if not told and "[kv]_ip" in pairs.template and tokens <= IP_ADAPTER_TOKENS:
        raise NestedAttentionError(
            f"it can be read as an IP-Adapter, which belongs in models/ipadapter, as well as a "
            f"nested encoder: {pairs.template} with {tokens} tokens"
        )


def _check_left(left: Iterable[str]) -> None:
    names = sorted(left)
    if names:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise NestedAttentionError(f"no place is known for {len(names)} of its tensors: {shown}")


def _sources(names: Mapping[str, str]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for ours, theirs in names.items():
        parts = {ours: Source(theirs)}
        if ours.endswith(_FUSED):
            stem = ours.removesuffix(_FUSED)
            parts = {f"{stem}.to_{role}.weight": Source(theirs, n) for n, role in enumerate("kv")}
        for name, source in parts.items():
            if name in sources:
                raise NestedAttentionError(
                    f"it has two tensors for {name}: {sources[name].name} and {theirs}"
                )
            sources[name] = source
    return sources


def _check_tensors(config: EncoderConfig, sources: Mapping[str, Source], header: Header) -> None:
    expected = NestedEncoder(config, device="meta").state_dict()
    for name in sorted(expected.keys() | sources.keys()):
        if name not in sources:
            raise NestedAttentionError(f"it has no tensor for {name}")
        source = sources[name]
        dtype, shape = header.tensors[source.name]
        if name not in expected:
            raise NestedAttentionError(f"{source.name} has no place in an encoder of its sizes")
        wanted = tuple(expected[name].shape)
        if source.part is not None:
            wanted = (2 * wanted[0], *wanted[1:])
        if shape != wanted:
            raise NestedAttentionError(f"{source.name} has shape {shape}, not {wanted}")
        if dtype not in FLOATING:
            raise NestedAttentionError(f"{source.name} is {dtype}, not a floating number")


def cut(tensor: torch.Tensor, source: Source) -> torch.Tensor:
    """The part of a file's tensor that a source means."""
    if source.part is None:
        return tensor
    return tensor.chunk(2, dim=0)[source.part].clone()
