"""How words of the command line become values, in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from jaxmarl_lite.validation import check_path

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _of_int(info: Any) -> Any:
    """A whole number, which may be written with an exponent: ``1e6``."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: to_int(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _of_path(info: Any) -> Any:
    """A path, in which ``~`` is expanded."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: check_path("the path", words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def to_int(word: str) -> int:
    """Returns the whole number that a word stands for; raises ValueError for any other word."""
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():
            raise ValueError(f"{word!r} is no whole number") from None
        return int(number)
