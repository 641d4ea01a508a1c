"""Checks of names and keywords, and one error for every wrong name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxmarl_lite.validation import (
    MOST,
    check_choice,
    check_int,
    check_number,
    invalid,
    unknown_name,
)

Rule = Callable[[str, Any], Any]
"""Function of a keyword's name, for the message, and its value: returns the checked value or raises
ValueError."""


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
    also = also and also[0].lower() + also[1:].rstrip(".")
    return unknown_name(kind.rstrip(":"), name, known, also)


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


def check_keywords(
    env_id: str, keywords: Mapping[str, Any], rules: Mapping[str, Rule]
) -> dict[str, Any]:
    """Checks the names and the values of an environment's keywords.

    Args:
        env_id: the environment, for the message.
        keywords: the keywords.
        rules: keyword that the environment takes -> the check of its value.

    Returns:
        The checked keywords.

    Raises:
        UnknownKeywordError: for a name without a rule.
        ValueError: for a value that is not allowed.
    """
    check_names(env_id, keywords, rules)
    return {field: rules[field](f"{field} of {env_id}", keywords[field]) for field in keywords}


def one_of(*choices: str) -> Rule:
    """Returns the rule of a keyword that is one of some words.

    Args:
        *choices: the words.
    """
    return functools.partial(check_choice, choices=choices)


def at_least(low: int) -> Rule:
    """Returns the rule of a keyword that is a whole number, of 32 bits as steps are.

    Args:
        low: the lowest number.
    """
    return functools.partial(check_int, low=low, high=MOST)


def positive(name: str, value: Any) -> Any:
    """Checks a number above 0; the rule of a keyword.

    Args:
        name: name of the keyword, for the message.
        value: its value.

    Returns:
        The number as a Python float.

    Raises:
        ValueError: for any other value.
    """
    number = check_number(name, value, 0.0)
    if not number > 0:
        raise invalid(name, value, "a number above 0")
    return number


def unchecked(name: str, value: Any) -> Any:
    """Returns the value: the rule of a keyword that is checked elsewhere.

    Args:
        name: name of the keyword.
        value: its value.
    """
    return value
