"""Measures what subjects cost: at single attention sites, in whole steps, and around a run.

Figures of a part that is not measured stay as an earlier run of the same --json file left them.
Times are medians in milliseconds: of the processor on the CPU, of the clock on a GPU; all forms of
one row run in turns, and ratios are medians over the rounds. --docs writes the figures of such a
file into docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "commands")]

import pack  # noqa: E402

PARTS = ("start", "step", "sparse", "shares", "sites")
DTYPES = ("fp32", "bf16", "fp16")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    made.add_argument("--quick", action="store_true", help="a small subset, in about two minutes")
    made.add_argument("--full", action="store_true", help="also whole steps of SDXL, in 12 GiB")
    made.add_argument("--device", default="cpu", help='"cpu" (the default) or "cuda"')
    made.add_argument("--dtype", choices=DTYPES, help="default: fp32 on the CPU, fp16 on a GPU")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seconds", type=float, default=2.0, help="about so long for each row")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--json", type=Path, help="write the figures there")
    made.add_argument(
        "--docs", type=Path, metavar="F", help="measure nothing; write F into docs/performance.md"
    )
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.docs is not None:
        return importlib.import_module("performance_page").main(arguments.docs)
    on_cpu = not arguments.device.startswith("cuda")
    pack.start_host(cpu=on_cpu)
    importlib.import_module("comfy.cli_args").args.use_pytorch_cross_attention = True
    import torch

    if not on_cpu and not torch.cuda.is_available():
        print("There is no CUDA device here: leave --device out.", file=sys.stderr)
        return 1
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes[arguments.dtype or ("fp32" if on_cpu else "fp16")]
    report = _read(arguments.json)
    report |= {
        "machine": torch.cuda.get_device_name() if not on_cpu else processor(),
        "torch": torch.__version__,
        "threads": arguments.threads,
    }
    for part in arguments.parts:
        measure = globals()[f"_{part}"]
        measure(report, arguments, dtype, lambda: _write(arguments.json, report))
    if not arguments.json:
        print(json.dumps(report, indent=1))
    return 0


def _sites(report: dict[str, Any], arguments: Any, dtype: Any, keep: Callable[[], None]) -> None:
    costs = importlib.import_module("site_costs")
    rows = costs.sites(arguments.quick, arguments.device, dtype, arguments.seconds)
    _collect(report, "sites", rows, keep)


def _sparse(report: dict[str, Any], arguments: Any, dtype: Any, keep: Callable[[], None]) -> None:
    costs = importlib.import_module("site_costs")
    report["syncs_per_site"] = costs.syncs_per_site()
    _collect(report, "sparse", costs.sparse(arguments.device, dtype, arguments.seconds), keep)


def _shares(report: dict[str, Any], arguments: Any, dtype: Any, keep: Callable[[], None]) -> None:
    real = importlib.import_module("real_shares")
    _collect(report, "shares", real.shares(2 if arguments.quick else 10), keep)


def _step(report: dict[str, Any], arguments: Any, dtype: Any, keep: Callable[[], None]) -> None:
    costs = importlib.import_module("step_costs")
    models = ["miniature"] if arguments.quick else ["miniature", "sd15"]
    rows = costs.steps(models + ["sdxl"] * arguments.full)
    _collect(report, "step", rows, keep)


def _start(report: dict[str, Any], arguments: Any, dtype: Any, keep: Callable[[], None]) -> None:
    report |= importlib.import_module("start_costs").measure(10 if arguments.quick else 50)
    keep()


def _collect(
    report: dict[str, Any], name: str, rows: Iterable[dict[str, Any]], keep: Callable[[], None]
) -> None:
    found: list[dict[str, Any]] = []
    for row in rows:
        found.append(row)
        print(f"{name}: {json.dumps(row)}", flush=True)
        report[name] = found
        keep()


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def _read(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
