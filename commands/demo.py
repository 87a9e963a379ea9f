"""Your subjects in new pictures, through a real ComfyUI server: demo.png and report.json.

Single subjects by `workflows/api/one_subject.json`, pairs of two domains by
`workflows/api/two_subjects.json`, one run a picture. The references are pictures of subjects that
no training saw; every picture that is drawn is shown.
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

from PIL import Image

import demo_sheet
from host_server import HostError, HostServer, node_of
from pack import ROOT, has_gpu, host_path

WORKFLOWS = {1: "one_subject.json", 2: "two_subjects.json"}
REFERENCES = ROOT / "models" / "references"
TITLE = "Nested Attention: one reference each (framed), every picture as it came"


@dataclass(frozen=True)
class Who:
    """A subject: its name in prompts, and which of its domain's reference pictures it has."""

    name: str
    domain: str
    number: int

    @property
    def reference(self) -> Path:
        """The held-out reference picture; they count from 1."""
        path = REFERENCES / self.domain / f"{self.number}.png"
        if not path.is_file():
            raise HostError(f"There is no reference picture {path}.")
        return path


@dataclass(frozen=True)
class Row:
    """Subjects, and prompts that name them; a prompt's seed is `seed` plus its place in the row."""

    subjects: tuple[Who, ...]
    prompts: tuple[str, ...]
    seed: int


ANNA, OTTO = Who("anna", "person", 1), Who("otto", "person", 2)
REX, MIA = Who("rex", "kitten", 1), Who("mia", "kitten", 2)
BOLT, TIN = Who("bolt", "robot", 1), Who("tin", "robot", 2)
ROWS = (
    Row(
        (ANNA,),
        (
            "a <anna> smiling in a red shirt, beach",
            "a <anna> sad with glasses in a blue shirt, forest",
            "a <anna> surprised in a white shirt on the left, city",
            "a <anna> smiling in a yellow shirt, desert, pixel art",
            "a <anna> smiling with sunglasses in a black shirt, mountain, pencil sketch",
        ),
        10,
    ),
    Row(
        (REX,),
        (
            "a <rex> with wide eyes, beach",
            "a <rex> wearing a red scarf with closed eyes, mountain",
            "a <rex> wearing headphones with angry eyes on the right, starry sky",
            "a <rex> wearing a black hat with wide eyes, ocean, pixel art",
            "a <rex> wearing a pink bow with wide eyes, city, pencil sketch",
        ),
        20,
    ),
    Row(
        (BOLT,),
        (
            "a <bolt> grinning with yellow eyes, beach",
            "a <bolt> with a visor, forest",
            "a <bolt> shouting with dark eyes on the left, sunrise",
            "a <bolt> grinning with a red eye, city, pixel art",
            "a <bolt> with yellow eyes, desert, sepia photo",
        ),
        30,
    ),
    Row(
        (OTTO, MIA),
        (
            "a <otto> smiling in a red shirt and a <mia> with wide eyes, beach",
            "a <mia> wearing a blue scarf with closed eyes and a <otto> sad in a white shirt, city",
            "a <otto> surprised with glasses in a blue shirt and a <mia> with wide eyes, forest",
            "a <otto> smiling in a green shirt and a <mia> with wide eyes, desert, pixel art",
        ),
        40,
    ),
    Row(
        (ANNA, TIN),
        (
            "a <anna> smiling in a blue shirt and a <tin> grinning with yellow eyes, ocean",
            "a <tin> with a visor and a <anna> surprised in a yellow shirt, mountain",
            "a <anna> sad with sunglasses in a white shirt and a <tin> with a red eye, sunrise",
            "a <tin> with yellow eyes and a <anna> smiling in a red shirt, beach, sepia photo",
        ),
        50,
    ),
    Row(
        (REX, BOLT),
        (
            "a <rex> with wide eyes and a <bolt> grinning with yellow eyes, forest",
            "a <bolt> with dark eyes and a <rex> wearing a red hat with angry eyes, starry sky",
            "a <rex> wearing a pink bow with closed eyes and a <bolt> with a visor, desert",
            "a <bolt> grinning with yellow eyes and a <rex> with wide eyes, city, pixel art",
        ),
        60,
    ),
)


@dataclass(frozen=True)
class Result:
    """What came back for a prompt of a row."""

    row: Row
    prompt: str
    seed: int
    image: Image.Image
    bindings: list[str]
    seconds: float


def workflow(row: Row) -> dict[str, Any]:
    """The shipped workflow for as many subjects as a row has, in API form."""
    path = ROOT / "workflows" / "api" / WORKFLOWS[len(row.subjects)]
    return json.loads(path.read_text(encoding="utf-8"))


def encode_nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The Encode Subject nodes, in the order of their ids."""
    kind = "NestedAttentionEncodeSubject"
    ids = sorted((key for key, node in graph.items() if node["class_type"] == kind), key=int)
    return [graph[key] for key in ids]


def fill(row: Row, prompt: str, seed: int) -> dict[str, Any]:
    """The workflow with a prompt, a seed, and the row's subjects."""
    graph = copy.deepcopy(workflow(row))
    graph[node_of(graph, "NestedAttentionPrompt")]["inputs"]["text"] = prompt
    graph[node_of(graph, "KSampler")]["inputs"]["seed"] = seed
    for who, node in zip(row.subjects, encode_nodes(graph), strict=True):
        node["inputs"]["name"] = who.name
        graph[node["inputs"]["image"][0]]["inputs"]["picture"] = f"{who.domain} {who.number}"
        encoder = graph[node["inputs"]["encoder"][0]]
        encoder["inputs"]["encoder_name"] = f"(shipped) {who.domain}.safetensors"
    return graph


def run_row(server: HostServer, row: Row) -> list[Result]:
    """Runs a row's prompts on the server; seconds count from queueing to the end of the job."""
    results = []
    for number, prompt in enumerate(row.prompts):
        graph = fill(row, prompt, row.seed + number)
        begin = time.monotonic()
        entry = server.run(graph)
        seconds = time.monotonic() - begin
        (file,) = server.images(entry, node_of(graph, "SaveImage"))
        shown = entry["outputs"].get(node_of(graph, "NestedAttentionPrompt"), {}).get("text", [])
        bindings = [line for text in shown for line in text.splitlines() if line.strip()]
        image = Image.open(io.BytesIO(file)).convert("RGB")
        results.append(Result(row, prompt, row.seed + number, image, bindings, seconds))
    return results


def draw(results: Sequence[Result]) -> Image.Image:
    """The sheet of all rows, in their order."""
    strips = []
    for row in dict.fromkeys(result.row for result in results):
        named = tuple((f"<{who.name}>", who.reference) for who in row.subjects)
        mine = tuple((r.prompt, r.image) for r in results if r.row == row)
        strips.append(demo_sheet.Strip(named, mine))
    return demo_sheet.draw(TITLE, strips)


def report(host_version: str, results: Sequence[Result], seconds_total: float) -> dict[str, Any]:
    """The figures of a run, one entry a picture; the keys are fixed so that runs compare."""
    rows = [
        {
            "prompt": result.prompt,
            "seed": result.seed,
            "subjects": [f"{who.domain}/{who.number}" for who in result.row.subjects],
            "bindings": result.bindings,
            "seconds": round(result.seconds, 2),
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
    cpu = not has_gpu()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        print(f"starting ComfyUI on the {'CPU' if cpu else 'GPU'} ...", flush=True)
        server = HostServer(host_path(), Path(sys.executable), Path(base), cpu=cpu)
        with server:
            version = server.get("/system_stats")["system"]["comfyui_version"]
            print(f"ComfyUI {version} answers after {time.monotonic() - begin:.0f} s", flush=True)
            results: list[Result] = []
            for number, row in enumerate(ROWS, start=1):
                names = " and ".join(f"<{who.name}>" for who in row.subjects)
                print(f"[{number}/{len(ROWS)}] {names}", end=" ", flush=True)
                results += run_row(server, row)
                print(f"{sum(r.seconds for r in results if r.row == row):.1f} s", flush=True)
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
