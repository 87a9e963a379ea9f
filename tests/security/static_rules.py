"""What the shipped code may not import and may not call, read from its syntax alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Of the standard library: what opens connections, starts programs, unpickles, or runs text.
FORBIDDEN = {
    "_pickle", "asyncio", "code", "codeop", "copyreg", "ctypes", "dbm", "ftplib", "http", "imaplib",
    "imp", "marshal", "multiprocessing", "nntplib", "pickle", "pickletools", "poplib", "pty",
    "runpy", "shelve", "smtplib", "socket", "socketserver", "ssl", "subprocess", "telnetlib",
    "urllib", "webbrowser", "wsgiref", "xml", "xmlrpc",
}  # fmt: skip
# Beside the standard library: the host and what it brings.
HOST = {"PIL", "comfy", "comfy_api", "folder_paths", "numpy", "safetensors", "torch", "tqdm"}
# What only training imports, and only when it is used (extras in pyproject.toml, dev.lock).
TRAINING = {
    "accelerate", "bitsandbytes", "dicebear", "natsort", "pydantic", "resvg_py", "robohash",
    "tomli", "tomllib", "webdataset",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
METHODS = {
    "system", "popen", "fork", "forkpty", "startfile", "unsafe_load", "load_module", "exec_module",
    "load_state_dict_from_url", "hf_hub_download", "snapshot_download", "from_pretrained",
    "urlopen", "urlretrieve",
}  # fmt: skip


def shipped() -> list[Path]:
    """The Python files that run in a user's ComfyUI."""
    folders = ("nodes", "nested_attn_core")
    return [ROOT / "__init__.py", *(p for f in folders for p in sorted((ROOT / f).rglob("*.py")))]


def problems(path: Path, text: str) -> Iterator[str]:
    """What a file does against the rules, each with its line."""
    training = "training" in path.parts
    for found in ast.walk(ast.parse(text)):
        for name in _imported(found):
            root = name.partition(".")[0]
            known = root in sys.stdlib_module_names or root in HOST
            if root in FORBIDDEN or not (known or training and root in TRAINING):
                yield f"line {getattr(found, 'lineno', 0)}: imports {name}"
        if isinstance(found, ast.Call):
            yield from _call(found)


def _imported(found: ast.AST) -> list[str]:
    if isinstance(found, ast.Import):
        return [alias.name for alias in found.names]
    if isinstance(found, ast.ImportFrom) and found.level == 0:
        return [found.module or ""]
    return []


def _call(call: ast.Call) -> Iterator[str]:
    where = f"line {call.lineno}: calls"
    if isinstance(call.func, ast.Name) and call.func.id in CALLS:
        yield f"{where} {call.func.id}"
    if not isinstance(call.func, ast.Attribute):
        return
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    name = call.func.attr
    spawns = owner == "os" and name.startswith(("exec", "spawn", "posix_spawn"))
    if name in METHODS or spawns or (owner, name) == ("torch", "hub"):
        yield f"{where} {owner}.{name}"
    given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    if (owner, name) == ("torch", "load") and given.get("weights_only") is not True:
        yield f"{where} torch.load without weights_only=True"
    if owner in ("np", "numpy") and name == "load" and given.get("allow_pickle") is not False:
        yield f"{where} numpy.load without allow_pickle=False"
