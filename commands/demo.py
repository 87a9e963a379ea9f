"""Two subjects in one image, through a real ComfyUI server: draws demo.png, writes report.json.

Runs `workflows/two_subjects_api.json` once for each row below. The references are pictures of
subjects that no training saw.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from host_server import HostError, HostServer, node_of
from pack import ROOT, has_gpu, host_path

WORKFLOW = ROOT / "workflows" / "two_subjects_api.json"
REFERENCES = ROOT / "models" / "references"
SAMPLES = 3
TILE, GAP, HEAD, LINE = 256, 12, 84, 36


@dataclass(frozen=True)
class Row:
    """One prompt with the references that its names stand for (file stems in a domain)."""

    prompt: str
    seed: int
    person: int
    kitten: int


ROWS = (
    Row("a <anna> smiling in a red shirt and a <rex> with round eyes, beach", 11, 0, 0),
    Row("a <anna> smiling in a green shirt and a <rex> with wide eyes, sunrise", 12, 1, 1),
    Row("a <anna> smiling in a blue shirt and a <rex> with round eyes, starry sky", 13, 2, 2),
    Row("a <anna> surprised in a yellow shirt and a <rex> with wide eyes, city", 14, 5, 5),
    Row("a <anna> smiling with glasses in a white shirt and a <rex>, ocean", 15, 7, 4),
)


@dataclass(frozen=True)
class Result:
    """What came back for a row."""

    row: Row
    references: tuple[Path, Path]
    images: tuple[Image.Image, ...]
    bindings: list[str]
    seconds: float


def references(domain: str) -> list[Path]:
    """The held-out reference pictures of a domain, in the order of their names."""
    found = sorted((REFERENCES / domain).glob("*.png"))
    if not found:
        raise HostError(f"There are no reference pictures in {REFERENCES / domain}.")
    return found


def fill(graph: dict[str, Any], row: Row, person: str, kitten: str) -> dict[str, Any]:
    """The workflow with a row's prompt, seed and uploaded pictures."""
    graph = copy.deepcopy(graph)
    graph[node_of(graph, "NestedAttentionPrompt")]["inputs"]["text"] = row.prompt
    graph[node_of(graph, "KSampler")]["inputs"]["seed"] = row.seed
    graph[node_of(graph, "EmptyLatentImage")]["inputs"]["batch_size"] = SAMPLES
    graph[node_of(graph, "LoadImage", "Reference of the person")]["inputs"]["image"] = person
    graph[node_of(graph, "LoadImage", "Reference of the kitten")]["inputs"]["image"] = kitten
    return graph


def run_row(server: HostServer, graph: dict[str, Any], row: Row) -> Result:
    """Runs one row on the server; seconds count from queueing to the end of the job."""
    persons, kittens = references("person"), references("kitten")
    person, kitten = persons[row.person % len(persons)], kittens[row.kitten % len(kittens)]
    names = (
        server.upload(person, f"person-{person.name}"),
        server.upload(kitten, f"kitten-{kitten.name}"),
    )
    begin = time.monotonic()
    filled = fill(graph, row, *names)
    entry = server.run(filled)
    seconds = time.monotonic() - begin
    files = server.images(entry, node_of(filled, "SaveImage"))
    images = tuple(Image.open(io.BytesIO(file)).convert("RGB") for file in files)
    report = entry["outputs"].get(node_of(filled, "NestedAttentionPrompt"), {}).get("text", [])
    bindings = [line for text in report for line in text.splitlines() if line.strip()]
    return Result(row, (person, kitten), images, bindings, seconds)


# The picture


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def tile(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


def draw(results: Sequence[Result]) -> Image.Image:
    """One row a prompt: both references, then the samples, the prompt written above them."""
    columns = 2 + max(len(result.images) for result in results)
    split = 2 * (TILE + GAP) + GAP
    width = columns * (TILE + GAP) + 3 * GAP
    pitch = LINE + TILE + 2 * GAP
    sheet = Image.new("RGB", (width, HEAD + pitch * len(results)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), "Nested Attention: two subjects in one image", "black", font(26))
    pen.text((GAP, HEAD - 32), "reference <anna>", "#555555", font(18))
    pen.text((GAP + TILE + GAP, HEAD - 32), "reference <rex>", "#555555", font(18))
    pen.text(
        (split + GAP, HEAD - 32),
        f"results: one batch of {SAMPLES}, none left out",
        "#555555",
        font(18),
    )
    for index, result in enumerate(results):
        top = HEAD + index * pitch
        pen.text((GAP, top + 6), result.row.prompt, "black", font(20))
        top += LINE
        for column, path in enumerate(result.references):
            with Image.open(path) as picture:
                sheet.paste(tile(picture), (GAP + column * (TILE + GAP), top))
        for column, image in enumerate(result.images):
            sheet.paste(tile(image), (split + GAP + column * (TILE + GAP), top))
        pen.line([(split, top), (split, top + TILE)], "#999999", 2)
    return sheet


def report(host_version: str, results: Sequence[Result], seconds_total: float) -> dict[str, Any]:
    """The figures of a run; the keys are fixed so that runs can be compared."""
    rows = [
        {
            "prompt": result.row.prompt,
            "seed": result.row.seed,
            "subjects": [f"{path.parent.name}/{path.stem}" for path in result.references],
            "bindings": result.bindings,
            "seconds": round(result.seconds, 2),
            "images": len(result.images),
        }
        for result in results
    ]
    return {"host": host_version, "rows": rows, "seconds_total": round(seconds_total, 2)}


def write(out: Path, sheet: Image.Image, figures: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "demo.png", optimize=True)
    (out / "report.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def demo(out: Path) -> None:
    """Starts the host, runs every row, writes both files."""
    begin = time.monotonic()
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    cpu = not has_gpu()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        print(f"starting ComfyUI on the {'CPU' if cpu else 'GPU'} ...", flush=True)
        server = HostServer(host_path(), Path(sys.executable), Path(base), cpu=cpu)
        with server:
            version = server.get("/system_stats")["system"]["comfyui_version"]
            print(f"ComfyUI {version} answers after {time.monotonic() - begin:.0f} s", flush=True)
            results = []
            for number, row in enumerate(ROWS, start=1):
                print(f"[{number}/{len(ROWS)}] {row.prompt}", end=" ", flush=True)
                results.append(run_row(server, graph, row))
                print(f"{results[-1].seconds:.1f} s", flush=True)
    write(out, draw(results), report(version, results, time.monotonic() - begin))
    print(f"wrote {out / 'demo.png'} and {out / 'report.json'}")


def stop(number: int, frame: FrameType | None) -> None:
    """A request to end becomes an exception, so that the server is stopped on the way out."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".local" / "demo", help="folder for both files"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        demo(arguments.out)
    except (HostError, OSError, KeyError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
