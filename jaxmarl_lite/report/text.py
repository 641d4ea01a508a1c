"""Text from users and environments, shown as text: no markup, no control characters."""

from __future__ import annotations

import unicodedata

from rich.text import Text

_HIDDEN = ("Cc", "Cs")
"""Unicode categories to escape: control characters, and the surrogates of undecodable bytes."""


def printable(text: object) -> str:
    r"""Returns the text with control characters and undecodable bytes as escapes, such as ``\x1b``.

    Line breaks stay.

    Args:
        text: Any object; its `str` is taken.

    Returns:
        The escaped text.
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _HIDDEN and char != "\n"
        else char
        for char in str(text)
    )


def literal(text: object, style: str = "") -> Text:
    """Returns the text for rich, shown as it stands.

    Rich reads brackets and colons in a `str` as styles and pictograms.

    Args:
        text: Any object; its `str` is taken.
        style: Rich style of the whole text.

    Returns:
        A rich text without markup.
    """
    return Text(printable(text), style)
