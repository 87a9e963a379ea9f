"""Sees what Python reports of this process: files written, connections, programs, pickles."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2,
    "os.truncate": 1, "os.chmod": 1,
}  # fmt: skip
_FORBIDDEN = (
    "socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system",
    "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pickle.find_class", "urllib.Request",
)  # fmt: skip


class Guard:
    """While it is on: `written` paths, and `forbidden` acts. Python cannot take the hook away
    again, so that there is one for the process. Code that writes files without Python's knowledge
    (safetensors does) is seen by its os.replace, and by listings of folders."""

    def __init__(self) -> None:
        self.written: list[Path] = []
        self.forbidden: list[str] = []
        self._on = False
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def on(self) -> Iterator[Guard]:
        self.written, self.forbidden = [], []
        self._on = True
        try:
            yield self
        finally:
            self._on = False

    def outside(self, *folders: Path) -> list[Path]:
        """What was written elsewhere; Python's own compiled modules do not count."""
        inside = [folder.resolve() for folder in folders]
        return [
            path
            for path in self.written
            if "__pycache__" not in path.parts
            and path != Path(os.devnull)
            and not any(path.is_relative_to(folder) for folder in inside)
        ]

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & _WRITING:
                self._wrote(path)
        elif event in _CHANGES:
            for path in args[: _CHANGES[event]]:
                # What is named from an open folder lies in one that was made while this watched.
                if args[-1] in (-1, None) or os.path.isabs(path) or event == "os.truncate":
                    self._wrote(path)
        elif event in _FORBIDDEN:
            self.forbidden.append(f"{event} {args!r}"[:300])

    def _wrote(self, path: Any) -> None:
        if isinstance(path, (str, bytes)):
            # Not resolved here: that would ask the disk, inside of what asks it.
            self.written.append(Path(os.path.abspath(os.fsdecode(path))))


GUARD = Guard()
