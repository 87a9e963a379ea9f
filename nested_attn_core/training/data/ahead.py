"""Loading ahead: pictures of the next batch are read while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Loaded = TypeVar("Loaded")


class ReadAhead(Generic[Name, Loaded]):
    """Runs loads in threads; 0 threads load when they are asked."""

    def __init__(self, threads: int):
        self._pool = ThreadPoolExecutor(threads, "pictures") if threads else None
        self._coming: dict[Name, Future[Loaded]] = {}

    def expect(self, loads: Mapping[Name, Callable[[], Loaded]], alone: bool = True) -> None:
        """Starts what is not under way; `alone` forgets what was expected and is no longer."""
        for name in self._coming.keys() - loads.keys() if alone else ():
            self._coming.pop(name).cancel()
        if self._pool is not None:
            for name in loads.keys() - self._coming.keys():
                self._coming[name] = self._pool.submit(loads[name])

    def take(self, loads: Mapping[Name, Callable[[], Loaded]]) -> dict[Name, Loaded]:
        """The results; an error of a load is raised here."""
        if self._pool is None:
            return {name: load() for name, load in loads.items()}
        futures = {
            name: self._coming.pop(name, None) or self._pool.submit(load)
            for name, load in loads.items()
        }
        return {name: future.result() for name, future in futures.items()}

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
