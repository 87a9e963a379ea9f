"""WebDataset shards: tar files whose members `0001.jpg`, `0001.txt`, `0001.json` are one picture.

The webdataset library says which members belong together and what a pattern of shards means. The
pictures themselves are read where they lie in the tar file, in any order: a diffusion training
needs few pictures a second, and a training that is resumed goes on with the very next one.
"""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .example import DataError
from .items import FileBytes, Listing, Stored, file_stamp
from .jsonl import may_refer, parse_record, text_field
from .pictures import SUFFIXES

MISSING = (
    "WebDataset shards need the webdataset library, which is not installed; install it with: "
    "pip install webdataset"
)
_PICTURE = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
_MASK = ("mask.png",)


def list_shards(pattern: str, identity: str) -> Listing:
    """The pictures of all shards, in the order of the shards and of their members.

    pattern   a folder with .tar files, a path with {000..199} or *, several parted by "::"
    identity  "field" (of the member .json), "folder" (of the members' names) or "picture"
    """
    items, problems = [], []
    for shard in shard_paths(pattern):
        try:
            stamp = file_stamp(shard)
            for sample in _samples(shard):
                try:
                    items.append(_item(shard, stamp, sample, identity))
                except DataError as error:
                    problems.append(f"{shard.name}, {sample['__key__']}: {error}")
        except FileNotFoundError as error:
            raise DataError(
                f"There is no shard {shard}; bring it back, or leave it out of data.path."
            ) from error
        except (OSError, tarfile.TarError, EOFError) as error:
            problems.append(
                f"{shard.name} is damaged, or no plain tar file ({error}); copy it again, not "
                "compressed."
            )
        except ValueError as error:
            problems.append(f"{shard.name} has two members of one name ({error}); pack it again.")
    return Listing(items, problems)


def shard_paths(pattern: str) -> list[Path]:
    """The files of a pattern, sorted within each part; raises DataError if there are none."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise DataError(MISSING) from error
    if Path(pattern).is_dir():
        found = sorted(Path(pattern).glob("*.tar"))
    else:
        found = [
            Path(path)
            for part in expand_urls(pattern)
            for path in (sorted(glob.glob(part)) if glob.has_magic(part) else [part])
        ]
    if not found:
        raise DataError(
            f"There are no shards at {pattern}; set data.path to a folder of .tar files or to a "
            "pattern such as shards/{0000..0199}.tar."
        )
    return found


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    """The shard's samples, with FileBytes in place of contents."""
    from webdataset.tariterators import group_by_keys

    # In a compressed file a member has no place from which it could be read.
    with tarfile.open(shard, "r:") as archive:
        members = (
            {
                "fname": member.name,
                "data": FileBytes(shard, member.offset_data, member.size),
                "__url__": str(shard),
            }
            for member in archive
            if member.isfile() and not Path(member.name).name.startswith(".")
        )
        yield from group_by_keys(members)


def _item(shard: Path, stamp: str, sample: dict[str, Any], identity: str) -> Stored:
    key = sample["__key__"]
    picture = next((sample[suffix] for suffix in _PICTURE if suffix in sample), None)
    if picture is None:
        raise DataError(f"there is no picture; add a member {key}.jpg.")
    record = parse_record(sample["json"]()) if "json" in sample else {}
    caption = text_field(record, "caption")
    if "txt" in sample:
        try:
            caption = sample["txt"]().decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{key}.txt is no UTF-8 text.") from error
    mask = next((sample[suffix] for suffix in _MASK if suffix in sample), None)
    folder = key.rpartition("/")[0] or None
    who = {
        "field": text_field(record, "identity"),
        "folder": folder,
        "picture": f"{shard.name}/{key}",
    }
    return Stored(
        origin=f"{shard.name}/{key}",
        stamp=f"{stamp} {picture.start}",
        caption=caption or None,
        identity=who[identity],
        read=picture,
        read_mask=mask,
        reference=may_refer(record),
    )
