"""One error for every wrong name: the nearest names, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

from jaxmarl_lite.validation import nearest_names, show


def unknown_name_error(what: str, name: str, known: Iterable[str], also: str = "") -> ValueError:
    """The error for a name that does not exist.

    what: the kind of name, for the message. known: names to compare with. also: a further sentence
    on what is allowed.
    """
    known = list(known)
    near = nearest_names(name, known)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    allowed = also or f"Allowed: {', '.join(known) or 'none'}."
    return ValueError(f"Unknown {what} {show(name)}{hint} {allowed}")


class UnknownKeyword(ValueError):
    """A keyword that an environment does not take; ``allowed`` has those that it takes."""

    def __init__(self, message: str, allowed: list[str]):
        super().__init__(message)
        self.allowed = allowed


def check_names(owner: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise UnknownKeyword for the first given keyword that is not allowed."""
    allowed = list(dict.fromkeys(allowed))
    for name in given:
        if name not in allowed:
            raise UnknownKeyword(
                str(unknown_name_error(f"keyword of {owner}:", name, allowed)), allowed
            )
