"""Text that users and environments give, as text: no markup, no control characters."""

from __future__ import annotations

import unicodedata

from rich.text import Text

_HIDDEN = ("Cc", "Cs")  # control characters, and the stand-ins for bytes that are no text


def printable(text: object) -> str:
    """The text with control characters and undecodable bytes as escapes, such as ``\\x1b``; line
    breaks stay.
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _HIDDEN and char != "\n"
        else char
        for char in str(text)
    )


def literal(text: object, style: str = "") -> Text:
    """The text for rich, which takes brackets and colons in a `str` for styles and pictures."""
    return Text(printable(text), style)
