"""An output node for graphs of the tests, which keeps what comes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def sink(
    keep: Callable[[dict[str, Any]], object], kinds: Mapping[str, str], *, optional: bool = False
) -> type:
    """A node class with these inputs (name -> type); each run passes what they hold to `keep`."""

    class Sink:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            inputs = {name: (kind,) for name, kind in kinds.items()}
            return {"required": {}, "optional": inputs} if optional else {"required": inputs}

        def run(self, **given: Any) -> Any:
            keep(given)
            return {"ui": {}, "result": ()}

    return Sink
