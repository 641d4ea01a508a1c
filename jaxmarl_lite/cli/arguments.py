"""Conversion of command-line arguments to values, shared by all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from jaxmarl_lite.validation import check_path

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _int_rule(info: Any) -> Any:
    """Parses a whole number, which may be written with an exponent: ``1e6``."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda strings: to_int(strings[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _path_rule(info: Any) -> Any:
    """Parses a path and expands ``~``."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda strings: check_path("the path", strings[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def to_int(word: str) -> int:
    """Returns the whole number that a string represents.

    Args:
        word: an integer, or a number without a fraction, such as ``1e6``.

    Raises:
        ValueError: the string represents no whole number.
    """
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():
            raise ValueError(f"{word!r} is no whole number") from None
        return int(number)
