"""Objects of the user by the text that finds them again: ``module:name``.

A run's folder holds text alone. An algorithm, an environment, a network or an optimizer that the
user passes as an object is stored as the reference that imports it, where there is one; otherwise
as a description, and whoever loads the run passes the object again.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from jaxmarl_lite.validation import invalid, one_line, show

_REFERENCE = re.compile(r"(?!\d)\w+(\.(?!\d)\w+)*:(?!\d)\w+(\.(?!\d)\w+)*")


@dataclasses.dataclass(frozen=True)
class Unavailable:
    """Stands for an object that a run was given and that its folder cannot hold.

    Attributes:
        description: the object in words, in angle brackets.
    """

    description: str


def is_reference(value: object) -> bool:
    """Returns whether a value is a text of the form ``module:name``.

    Args:
        value: any value.

    Example:
        >>> is_reference("my_package.networks:Encoder"), is_reference("smax/3m")
        (True, False)
    """
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def load(field: str, reference: str) -> Any:
    """Imports the object that a reference names.

    Modules are looked up in the working directory first, as Python does for a script.

    Args:
        field: name of the setting, for messages.
        reference: a text of the form ``module:name``; dots in the name reach attributes.

    Returns:
        The object.

    Raises:
        ValueError: the text has another form, the module cannot be imported, or it has no such
            name.

    Example:
        >>> load("schedule", "math:sqrt")(4.0)
        2.0
    """
    if not is_reference(reference):
        raise invalid(field, reference, "module:name, such as my_package.my_module:MyClass")
    module_name, _, name = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        module: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"{field} is {reference!r}, whose module {module_name} cannot be imported "
            f"({one_line(error)}); allowed is a module that Python finds from {folder}"
        ) from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        public = {known: x for known, x in vars(module).items() if not known.startswith("_")}
        defined = [k for k, x in public.items() if getattr(x, "__module__", "") == module_name]
        near = difflib.get_close_matches(name, public, 3, 0.5) or defined[:8]
        raise ValueError(
            f"{field} is {reference!r}, but the module {module_name} has no {name}; allowed is a "
            "name in it" + (f", such as {', '.join(near)}" if near else "")
        ) from None


def import_extra(module: str, purpose: str, extra: str) -> Any:
    """Imports a module of a package that an extra of this package installs.

    Args:
        module: name of the module.
        purpose: what needs it, with the verb, as the beginning of the message.
        extra: name of the extra.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message says how to install it.

    Example:
        >>> import_extra("json", "this example needs", "none").dumps([1])
        '[1]'
        >>> import_extra("no_such_module", "data frames need", "dataframe")
        Traceback (most recent call last):
            ...
        ImportError: data frames need another package: pip install jaxmarl-lite[dataframe]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} another package: pip install jaxmarl-lite[{extra}]"
        ) from error


def describe(value: object) -> str:
    """Returns the text by which a run's folder keeps an object of the user.

    Args:
        value: an object, or a text that names one.

    Returns:
        The text itself; the reference of a class or function that can be imported by it; otherwise
        a description in angle brackets, without addresses in memory.

    Example:
        >>> import math
        >>> describe(math.sqrt), describe("my_module:make"), describe(lambda step: 0.1)
        ('math:sqrt', 'my_module:make', '<function <lambda>>')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Unavailable):
        return value.description
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module != "__main__":
        reference = f"{module}:{name}"
        try:
            if is_reference(reference) and load("", reference) is value:
                return reference
        except ValueError:
            pass
    text = re.sub(r" at 0x[0-9a-f]+", "", show(value))
    return text if text.startswith("<") else f"<{text}>"


def from_description(text: str) -> str | Unavailable:
    """Returns what a stored text stands for: the text, or an object that must be passed again.

    Args:
        text: a result of `describe`.
    """
    return Unavailable(text) if text.startswith("<") else text


def missing(field: str, value: Unavailable, how: str) -> ValueError:
    """Returns the error for an object that a run was given and that must be passed again.

    Args:
        field: name of the setting.
        value: stands for the object.
        how: what to write, such as ``networks=...``.

    Returns:
        The error, for the caller to raise.
    """
    return ValueError(
        f"{field} of this run was the object {value.description}, which its folder cannot hold; "
        f"pass it again as {how}, or give it as 'module:name' from the start"
    )
