"""One error for every wrong name: the nearest names, and the allowed ones."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmarl_lite.validation import nearest_names, show


def unknown_name_error(kind: str, name: str, known: Iterable[str], also: str = "") -> ValueError:
    """Returns the error for a name that does not exist.

    Args:
        kind: the kind of name, for the message (``"environment"``).
        name: the name that was given.
        known: names to compare with.
        also: a further sentence on what is allowed; by default the message lists ``known``.

    Returns:
        The error, which the caller raises.
    """
    known = list(known)
    near = nearest_names(name, known)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    allowed = also or f"Allowed: {', '.join(known) or 'none'}."
    return ValueError(f"Unknown {kind} {show(name)}{hint} {allowed}")


class UnknownKeywordError(ValueError):
    """A keyword that an environment does not take.

    Attributes:
        allowed: the keywords that it takes.
    """

    def __init__(self, message: str, allowed: list[str]):
        super().__init__(message)
        self.allowed = allowed


def check_names(owner: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises an error for the first name that is not allowed.

    Args:
        owner: the environment or argument that takes the names, for the message.
        names: the names to check.
        allowed: the names that ``owner`` takes.

    Raises:
        UnknownKeywordError: for the first of ``names`` that is not among ``allowed``.
    """
    allowed = list(dict.fromkeys(allowed))
    for name in names:
        if name not in allowed:
            raise UnknownKeywordError(
                str(unknown_name_error(f"keyword of {owner}:", name, allowed)), allowed
            )
