"""The one error type of the core."""

from __future__ import annotations

_LONGEST = 1000


class NestedAttentionError(ValueError):
    """Input that cannot be used; the message says what is wrong, what was expected, what to do.

    Messages quote what users typed and files hold. They stay one printable line of a length that a
    page can show: control characters and such are escaped, and the middle of a flood is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(_printable(message)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    part = (_LONGEST - 7) // 2
    return f"{text[:part]} [...] {text[-part:]}"
