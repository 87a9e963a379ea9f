"""How many cases a fuzz test makes: few in the normal run, many in the long one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from reliability import LONG, TIMES


def cases(few: int) -> Callable[[Any], Any]:
    """`few` cases, always the same ones; in the long form TIMES as many, drawn anew."""
    return settings(
        max_examples=few * TIMES,
        derandomize=not LONG,
        database=None,
        deadline=None,
        # A smaller example takes longer to find than the first one does to be understood.
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if LONG else [])],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )
