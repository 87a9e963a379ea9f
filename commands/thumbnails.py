"""Runs every shipped workflow in a real ComfyUI server and writes the picture it makes beside it,
where the host's list of templates looks for a thumbnail."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from host_server import HostError, HostServer, node_of
from pack import ROOT, host_path

WORKFLOWS = ROOT / "workflows"
SIDE = 256  # pixels; the miniature draws 128


def graphs() -> dict[str, dict[str, Any]]:
    """Template name -> its graph in API form."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((WORKFLOWS / "api").glob("*.json"))
    }


def thumbnail(picture: bytes) -> Image.Image:
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(server: HostServer, out: Path, names: Sequence[str]) -> None:
    """Draws the named workflows, all where none is named."""
    found = graphs()
    unknown = set(names) - found.keys()
    if unknown:
        raise HostError(
            f"There is no workflow {', '.join(sorted(unknown))}: name any of {', '.join(found)}."
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in names or found:
        graph = found[name]
        (picture,) = server.images(server.run(graph), node_of(graph, "SaveImage"))
        path = out / f"{name}.jpg"
        thumbnail(picture).save(path, quality=88, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py thumbnails", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these workflows, such as two_people")
    parser.add_argument("--out", type=Path, default=WORKFLOWS, help="another folder")
    arguments = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base,
            HostServer(host_path(), Path(sys.executable), Path(base)) as server,
        ):
            write(server, arguments.out, arguments.names)
    except (HostError, OSError) as error:
        print(f"The thumbnails failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
