"""What is known of the pictures of a data set without reading them again: key and size."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .example import DataError
from .items import Facts, Item

log = logging.getLogger("nested_attention")
_FORMAT = 1


class ContentIndex:
    """Facts by stamp, kept in one file; a changed picture has another stamp and is read again.

    The file is written whole or not at all, and one that cannot be read is made again.
    """

    def __init__(self, path: Path):
        self.path = path
        self._facts = self._load()

    def facts(
        self,
        items: Sequence[Item],
        threads: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Facts | DataError]:
        """Of each item, in order; the error where it cannot be read. Keeps what is new."""
        unknown = [item for item in items if item.stamp not in self._facts]
        failed: dict[str, DataError] = {}
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for number, (item, found) in enumerate(
                zip(unknown, pool.map(_look, unknown), strict=True), start=1
            ):
                if isinstance(found, DataError):
                    failed[item.stamp] = found
                else:
                    self._facts[item.stamp] = found
                if progress is not None and (number % 500 == 0 or number == len(unknown)):
                    progress(number, len(unknown))
        if len(unknown) > len(failed):
            self._save()
        return [self._facts.get(item.stamp) or failed[item.stamp] for item in items]

    def _load(self) -> dict[str, Facts]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                return {}
            return {stamp: Facts(key, (w, h)) for stamp, (key, w, h) in data["facts"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "%s cannot be read (%s); the pictures are looked at again.", self.path, error
            )
            return {}

    def _save(self) -> None:
        facts = {stamp: [found.key, *found.size] for stamp, found in self._facts.items()}
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps({"format": _FORMAT, "facts": facts}), encoding="utf-8")
            os.replace(unfinished, self.path)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s); the pictures are looked at again next time.",
                self.path,
                error.strerror or error,
            )
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink()


def _look(item: Item) -> Facts | DataError:
    try:
        return item.facts()
    except DataError as error:
        return error
