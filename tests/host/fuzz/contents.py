"""Files as users and attackers make them: whole, swapped, cut, damaged, and hostile."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st

from release_files import named, release

from ..conftest import World, pack, write_encoder
from . import values


class Bomb:
    """What must never be opened: unpickled, it would run a program."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("exit 1",)


def whole_files(world: World, folder: Path) -> dict[str, bytes]:
    """One good file of each kind that the nodes read, and some that belong elsewhere."""
    made: dict[str, bytes] = {}
    path = folder / "making.safetensors"

    def keep(name: str) -> None:
        made[name] = path.read_bytes()
        path.unlink()

    write_encoder(path, world.model.model.diffusion_model, world.vision, "sd15")
    keep("encoder")
    subjects = pack("nested_attn_core.subject_file")
    subjects.save_subject(path, subjects.SavedSubject.of(world.subject()))
    keep("subject")
    safetensors.torch.save_file(named(release("sd15")), path)
    keep("release")
    safetensors.torch.save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 8)}, path)
    keep("lora")
    safetensors.torch.save_file({"a.b": torch.zeros(4, 8)}, path)
    keep("strange")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    made["zipped pickle"] = archive.getvalue()
    made["pickle"] = pickle.dumps(Bomb())
    return made


def with_header(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


HOSTILE = [
    b"", b"\0", b"\0" * 64, b"{}", b"<html></html>", b"GGUF" + b"\0" * 64,
    b"PK\x03\x04" + b"\0" * 64,
    b"version https://git-lfs.github.com/spec/v1\n", struct.pack("<Q", 2**63) + b"{" + b" " * 64,
    struct.pack("<Q", 99_000_000) + b"{" + b" " * 64,
    with_header(b"{" + b'"a":{' * 20_000), with_header(b'{"a":' + b"[" * 100_000),
    with_header(b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    with_header(b'{"__metadata__":{"nested_attention":"' + b"[" * 100_000 + b'"}}'),
    with_header(b'{"__metadata__":{"nested_attention_subject":"' + b"{" * 100_000 + b'"}}'),
    with_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    with_header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    with_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'),
    with_header(b'{"__metadata__":null}'), with_header(b"{}"), with_header(b'{"\xff":1}'),
    with_header(b"{}" + b" " * 100_000),
]  # fmt: skip


@st.composite
def contents(draw: st.DrawFn, whole: dict[str, bytes], likely: str) -> bytes:
    """The bytes of a file that is to be read as `likely`."""
    name = draw(st.sampled_from([likely] * 6 + sorted(whole)))
    data = whole[name]
    act = draw(
        st.sampled_from(
            ["whole", "cut", "longer", "bytes", "raw"] + ["header"] * 4 + ["metadata"] * 6 + ["nan"]
        )
    )
    if act == "raw":
        noise = st.binary(max_size=200)
        return draw(st.one_of(st.sampled_from(HOSTILE), noise, noise.map(with_header)))
    if act == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if act == "longer":
        return data + draw(st.binary(min_size=1, max_size=9))
    if act == "bytes":
        changed = bytearray(data)
        for _ in range(draw(st.integers(1, 5))):
            changed[draw(st.integers(0, min(len(data) - 1, 20_000)))] = draw(st.integers(0, 255))
        return bytes(changed)
    if act == "whole" or "pickle" in name:
        return data
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if act == "nan":
        return with_header(json.dumps(header).encode(), b"\xff" * len(rest))
    metadata = header.get("__metadata__", {})
    described = next(iter(metadata), None)
    if act == "metadata" and described is not None:
        changed = draw(values.mutated(json.loads(metadata[described])))
        metadata[described] = json.dumps(changed)
    else:
        header = draw(values.mutated(header))
    return with_header(json.dumps(header).encode("utf-8", "surrogatepass"), rest)


MAPPING = {
    "resampler": "image_proj_model.", "keys": "adapter_modules.*.to_k_nest.weight",
    "values": "adapter_modules.*.to_v_nest.weight", "ignore": ["x"], "head_dim": 64,
    "image_size": 32, "class_word": "person", "domain": "person",
    "tensors": {},
}  # fmt: skip


def mappings() -> st.SearchStrategy[bytes]:
    """The bytes of a mapping file."""
    as_json = st.one_of(values.mutated(MAPPING), st.just(MAPPING), values.JSON)
    raw = st.one_of(st.binary(max_size=60), st.just(b"[" * 100_000), st.just(b""))
    return st.one_of(as_json.map(lambda made: json.dumps(made).encode()), raw)
