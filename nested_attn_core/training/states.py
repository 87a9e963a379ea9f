"""The states of a training on disk: whole files only, the newest few, the last good one found."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any

from ..errors import NestedAttentionError
from .checkpoints import load_state, save_state

_NAME = re.compile(r"state-(\d{8})\.pt")

log = logging.getLogger("nested_attention")


class TrainingStopped(NestedAttentionError):
    """A training that cannot go on; what was saved before is kept."""


class StateFolder:
    """Saved states in one folder, `keep` of them."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep

    def saved(self) -> list[tuple[int, Path]]:
        """(step, file) of each state, the newest first."""
        found = []
        for path in self.folder.glob("state-*.pt"):
            match = _NAME.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path))
        return sorted(found, reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes a state and drops the oldest; raises TrainingStopped where that fails, and then
        leaves the earlier ones as they are."""
        path = self.folder / f"state-{step:08d}.pt"
        try:
            save_state(path, {**state, "step": step})
            self._settle()
        except (OSError, RuntimeError) as error:
            path.with_suffix(".pt.part").unlink(missing_ok=True)
            raise TrainingStopped(
                f"The state of step {step} cannot be written to {self.folder} ({reason(error)}); "
                f"{self.kept()} Free some space there and run the same command again to go on."
            ) from error
        for _, old in self.saved()[self.keep :]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is none.

        Raises TrainingStopped where there are states and none of them can be read."""
        for part in self.folder.glob("state-*.pt.part"):  # of a run that was killed while saving
            part.unlink(missing_ok=True)
        found = self.saved()
        for _, path in found:
            try:
                return load_state(path)
            except Exception as error:  # noqa: BLE001 (torch raises many kinds for a damaged file)
                log.warning("%s is damaged (%s); trying the state before.", path.name, error)
        if found:
            raise TrainingStopped(
                f"None of the {len(found)} states in {self.folder} can be read; delete that folder "
                "to start over, or bring back a copy of it."
            )
        return None

    def kept(self) -> str:
        """One sentence on what is left to go on from."""
        found = self.saved()
        if not found:
            return "No state was saved yet."
        return f"The last state, of step {found[0][0]}, is kept."

    def _settle(self) -> None:
        """Asks the disk to keep the new name, too; not every system can."""
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def reason(error: BaseException) -> str:
    """Why a file could not be written, in a few words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return "the disk is full"
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]
