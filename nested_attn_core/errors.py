"""The one error type of the core."""

from __future__ import annotations


class NestedAttentionError(ValueError):
    """Input that cannot be used; the message says what is wrong, what was expected, what to do."""
