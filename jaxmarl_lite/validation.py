"""Checks of users' values: one rule for numbers and one phrasing of errors.

Errors read ``NAME is VALUE; allowed is ...``; most functions take the name of the field for that
message.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import math
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmarl_lite.types import Algorithm, Environment, EnvSpec, PyTree

MOST = 2**31 - 1
"""The largest count: steps, sizes and updates are kept in 32 bits."""
_MAX_CHARACTERS = 120
"""Most characters of a value in a message."""

_DESCRIPTIVE_FIELDS = (
    "name",
    "return_description",
    "max_return",
    "cost_descriptions",
    "cost_limits",
    "win_condition",
    "action_names",
)
"""Fields of a spec in which an environment may differ from the one an algorithm was made for."""


def to_python(value: object) -> Any:
    """Returns a concrete 0-d number of NumPy or JAX as the Python number that it prints.

    ``np.float32(0.99)`` is 0.99, and not 0.9900000095367432: the same in single precision, and the
    same in JSON.

    Args:
        value: Any value.

    Returns:
        A Python number or bool; any other value, traced ones included, unchanged.

    Example:
        >>> import numpy as np
        >>> to_python(np.float32(0.99))
        0.99
    """
    if (
        isinstance(value, Tracer)
        or not isinstance(value, (np.generic, np.ndarray, jax.Array))
        or value.ndim
    ):
        return value
    if jnp.issubdtype(value.dtype, jnp.floating):
        return float(str(np.asarray(value)[()]))
    is_number = jnp.issubdtype(value.dtype, np.number) or value.dtype == np.bool_
    return value.item() if is_number else value


def show(value: object) -> str:
    """Returns a value as one short line for a message.

    Args:
        value: Any value.

    Returns:
        Its ``repr`` on one line of at most 120 characters.
    """
    try:
        text = " ".join(repr(to_python(value)).split())
    except Exception:  # the repr of a user's object, or of an integer with thousands of digits
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 4]} ..."


def invalid(name: str, value: object, allowed: str) -> ValueError:
    """Returns the error for a value that is not allowed.

    Args:
        name: Name of the field.
        value: The value.
        allowed: The values that are allowed, in words.

    Returns:
        The error, for the caller to raise.
    """
    return ValueError(f"{name} is {show(value)}; allowed is {allowed}")


def check_int(name: str, value: object, low: int = 1, high: int | None = None) -> int:
    """Returns a whole number as a Python int.

    Args:
        name: Name of the field, for the message.
        value: An integer or a float without a fraction (``1e6``), of Python, NumPy or JAX.
        low: The lowest number allowed.
        high: The highest number allowed; None for no upper bound.

    Returns:
        The number.

    Raises:
        ValueError: The value is anything else, a bool for example.

    Example:
        >>> check_int("num_envs", 1e3)
        1000
        >>> check_int("num_envs", 0)
        Traceback (most recent call last):
        ValueError: num_envs is 0; allowed is a whole number, 1 or more
    """
    number = to_python(value)
    if isinstance(number, float) and math.isfinite(number) and number.is_integer():
        number = int(number)
    if (
        isinstance(number, int)
        and not isinstance(number, bool)
        and low <= number <= (number if high is None else high)
    ):
        return int(number)
    is_open = high is None or (high >= MOST and not (isinstance(number, int) and number > high))
    raise invalid(
        name,
        value,
        "a whole number" + (f", {low} or more" if is_open else f" from {low} to {high}"),
    )


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, infinite: bool = False
) -> Any:
    """Returns a number as a Python float.

    A traced scalar is returned unchanged, because it has no value yet.

    Args:
        name: Name of the field, for the message.
        value: A number without axes, of Python, NumPy or JAX.
        low: The lowest number allowed.
        high: The highest number allowed.
        infinite: Whether infinities inside of the range are allowed.

    Returns:
        The number, or the tracer.

    Raises:
        ValueError: The value is anything else, for example a bool, NaN or an array of several
            entries.
    """
    if isinstance(value, Tracer) and value.shape == ():
        return value
    number = to_python(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            number = float(number)
        except OverflowError:  # an int beyond the largest float
            number = math.nan  # in no range
        if low <= number <= high and (infinite or math.isfinite(number)):
            return number
    bounds = f" from {low:g}" if low > -math.inf else ""
    bounds += f" to {high:g}" if high < math.inf else ""
    kind = "a number" if bounds else "a finite number"
    raise invalid(name, value, kind + bounds + (" (inf for no limit)" if infinite else ""))


def check_limit(name: str, value: Any, num_agents: int | None = None) -> Any:
    """Returns a limit on a cost, or a tuple of limits, one per agent.

    Args:
        name: Name of the field, for the message.
        value: A number from 0 up, inf for no limit; or a tuple, list or array of them, one per
            agent.
        num_agents: Number of limits that a tuple may have besides one; None: any.

    Returns:
        A float, or a tuple of floats.

    Raises:
        ValueError: The value is anything else.
    """
    is_sequence = isinstance(value, (tuple, list)) or (
        isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 1
    )
    numbers = list(value) if is_sequence else [value]
    try:
        limits = tuple(check_number(name, x, 0.0, infinite=True) for x in numbers)
    except ValueError:
        limits = ()
    if not limits or len(limits) not in (1, num_agents or len(limits)):
        agents = "each agent" if num_agents is None else f"each of {num_agents} agents"
        raise invalid(name, value, f"a number from 0 up (inf for no limit), or one for {agents}")
    return limits if is_sequence else limits[0]


def check_table(name: str, value: object, low: float = -math.inf) -> tuple[tuple[float, ...], ...]:
    """Returns rows of equally many finite numbers as tuples.

    Args:
        name: Name of the field, for the message.
        value: A sequence of rows, or a 2-d array, with one row and one column or more.
        low: The lowest number allowed.

    Returns:
        A tuple of rows, each a tuple of floats.

    Raises:
        ValueError: The value is anything else.
    """
    allowed = "rows of equally many numbers, such as ((1.0, 0.0), (0.0, 1.0))"
    rows = to_plain(value)
    if (
        not isinstance(rows, tuple)
        or not rows
        or not all(isinstance(row, tuple) and row for row in rows)
    ):
        raise invalid(name, value, allowed)
    if any(len(row) != len(rows[0]) for row in rows):
        raise invalid(name, value, allowed)
    return tuple(tuple(check_number(name, x, low) for x in row) for row in rows)


def one_line(error: BaseException) -> str:
    """Returns the message of an underlying error as one line, after the name of its class.

    Args:
        error: The error.

    Returns:
        At most 300 characters of the message.
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:300] + ' ...'}"


@functools.cache
def _annotations(record_class: type) -> dict[str, Any]:
    """Returns the type of every field of a dataclass by its name."""
    return typing.get_type_hints(record_class)


def check_fields(
    record: Any,
    prefix: str = "",
    highest: Mapping[str, int] = MappingProxyType({}),
    infinite: Iterable[str] = (),
) -> None:
    """Checks the fields of a frozen dataclass against their annotations.

    Numbers of NumPy and JAX become Python numbers, and strings become paths. An int is a count,
    from 1. Fields with other annotations than numbers, bools, literals and paths are left alone.

    Args:
        record: The dataclass, whose fields are set in place.
        prefix: Text before the name of a field in messages.
        highest: Name of a field -> the highest integer that it may be, where that is not `MOST`.
        infinite: Names of the floats that may be infinite.

    Raises:
        ValueError: A value has another type; the message names the field.
    """
    for field in (entry.name for entry in dataclasses.fields(record)):
        name, value, kind = (
            prefix + field,
            getattr(record, field),
            _annotations(type(record))[field],
        )
        if type(None) in typing.get_args(kind):
            if value is None:
                continue
            kind = typing.get_args(kind)[0]
        if kind is float:
            value = check_number(name, value, infinite=field in infinite)
        elif kind is int:
            value = check_int(name, value, 1, highest.get(field, MOST))
        elif kind is bool:
            value = check_bool(name, value)
        elif kind is Path:
            value = check_path(name, value)
        elif typing.get_origin(kind) is Literal:
            value = check_choice(name, value, typing.get_args(kind))
        object.__setattr__(record, field, value)


def check_bool(name: str, value: object) -> bool:
    """Returns a bool of Python, NumPy or JAX as a Python bool.

    Args:
        name: Name of the field, for the message.
        value: The value.

    Returns:
        The bool.

    Raises:
        ValueError: The value is anything else, 0 and 1 included.
    """
    flag = to_python(value)
    if not isinstance(flag, bool):
        raise invalid(name, value, "True or False")
    return flag


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Returns a word that is one of the choices.

    Args:
        name: Name of the field, for the message.
        value: The value.
        choices: The words that are allowed.

    Returns:
        The word.

    Raises:
        ValueError: The value is anything else.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise invalid(name, value, f"one of {', '.join(choices)}")
    return str(value)


def check_path(name: str, value: object) -> Path:
    """Returns a path with ``~`` expanded.

    Args:
        name: Name of the field, for the message.
        value: Text or a path.

    Returns:
        The path, which need not exist.

    Raises:
        ValueError: The value is no text and no path, is empty, or is a path that no file system can
            have.
    """
    allowed = "the path of a file or folder"
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise invalid(name, value, allowed)
    text = os.fspath(value)
    if not text or "\0" in text:
        raise invalid(name, value, f"{allowed}, without NUL and not empty")
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except (RuntimeError, UnicodeEncodeError):  # no home of such a user; a lone surrogate
        raise invalid(name, value, allowed) from None
    return path


def to_plain(value: object) -> Any:
    """Returns arrays and lists as tuples of Python numbers, mappings as dicts, at every depth.

    Args:
        value: Any value.

    Returns:
        The plain value; traced arrays and other objects unchanged.

    Example:
        >>> import numpy as np
        >>> to_plain({"a": [np.ones(2), 3]})
        {'a': ((1.0, 1.0), 3)}
    """
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer) and value.ndim:
        value = list(np.asarray(value))  # entries of a JAX array would be traced inside a trace
    if isinstance(value, (list, tuple)):
        return tuple(map(to_plain, value))
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    return to_python(value)


def parse_value(text: str) -> Any:
    """Parses a value that the command line gives as text.

    Args:
        text: The text.

    Returns:
        True or False for these words in any case, the value of a Python literal, or else the text.

    Example:
        >>> [parse_value(text) for text in ("true", "(8, 8)", "0.5", "relu")]
        [True, (8, 8), 0.5, 'relu']
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def check_mapping(name: str, value: object) -> dict[str, Any]:
    """Returns a mapping from names to values as a dict.

    Args:
        name: Name of the field, for the message.
        value: A mapping whose keys are strings.

    Returns:
        A new dict.

    Raises:
        ValueError: The value is anything else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise invalid(name, value, "a mapping from names to values")
    return dict(value)


def unknown_name(
    field: str, name: object, known: Iterable[str], allowed: str = "", max_names: int = 3
) -> ValueError:
    """Returns the error for a name that does not exist, with the allowed and the nearest names.

    Args:
        field: Name of the field that holds the wrong name.
        name: The wrong name; anything but a string is like none.
        known: The names that exist.
        allowed: What is allowed, in words; by default the message lists ``known``.
        max_names: Most names that the message suggests.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> unknown_name("algorithm", "hapo", ["happo", "qmix"])
        ValueError("algorithm is 'hapo'; allowed is one of happo, qmix; nearest: happo")
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, max_names, 0.5) if isinstance(name, str) else []
    hint = f"; nearest: {', '.join(near)}" if near else ""
    allowed = allowed or f"allowed is one of {', '.join(known) or 'none'}"
    return ValueError(f"{field} is {show(name)}; {allowed}{hint}")


def check_environment_object(env: object) -> EnvSpec:
    """Returns the spec of an object that looks like an environment.

    Args:
        env: The object; only its ``spec`` is looked at.

    Returns:
        The spec.

    Raises:
        ValueError: The object is a class, or has no `EnvSpec` as its ``spec``.
    """
    spec = getattr(env, "spec", None)
    if isinstance(env, type) or not isinstance(spec, EnvSpec):
        raise invalid(
            "env", env, "an environment, an instance with spec, reset and step, as make returns it"
        )
    return spec


def check_fits(algorithm: Algorithm, env: Environment) -> EnvSpec:
    """Returns the spec of an environment after checking that an algorithm fits it.

    Args:
        algorithm: The algorithm; one without a spec fits any environment.
        env: The environment.

    Returns:
        The spec of the environment.

    Raises:
        ValueError: The environment differs from the one that the algorithm was made for in more
            than words and limits, or an argument is no `Algorithm` or no environment.
    """
    if not isinstance(algorithm, Algorithm):
        raise invalid("algorithm", algorithm, "an Algorithm, as make_algorithm returns it")
    spec = check_environment_object(env)
    check_spec(algorithm, spec)
    return spec


def check_spec(algorithm: Algorithm, spec: EnvSpec) -> None:
    """Checks that an algorithm was made for an environment of these sizes.

    Args:
        algorithm: The algorithm; one without a spec fits any environment.
        spec: The spec of the environment.

    Raises:
        ValueError: The environment differs from the one that the algorithm was made for in more
            than words and limits.
    """
    if algorithm.spec is None:
        return
    for field in dataclasses.fields(EnvSpec):
        expected, value = getattr(algorithm.spec, field.name), getattr(spec, field.name)
        if expected != value and field.name not in _DESCRIPTIVE_FIELDS:
            raise ValueError(
                f"env has {field.name} {value!r}; allowed is {expected!r}, for which "
                f"{algorithm.name} was made (its spec is that of {algorithm.spec.name}, this is "
                f"{spec.name})"
            )


def check_key(name: str, key: object) -> None:
    """Checks that a value is one random key of JAX, traced or not.

    Args:
        name: Name of the field, for the message.
        key: A typed key, or a raw key of the older form.

    Raises:
        ValueError: The value is anything else, for example an array of several keys.
    """
    is_key = isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == np.uint32 and key.ndim == 1)  # the older raw form
    )
    if not is_key:
        raise invalid(
            name, key, "one random key, such as jax.random.key(0); use jax.vmap for several"
        )


def check_like(name: str, tree: PyTree, form: PyTree) -> None:
    """Checks that a tree has the structure and the shapes of another one.

    Args:
        name: Name of the field, for the message.
        tree: The tree.
        form: A tree of arrays or of their shapes (``jax.ShapeDtypeStruct``).

    Raises:
        ValueError: The structure differs, or the shape of a leaf, which the message names.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    expected, expected_structure = jax.tree_util.tree_flatten_with_path(form)
    if structure != expected_structure:
        raise ValueError(
            f"{name} is of another algorithm or environment; allowed is what `init` returned"
        )
    for (path, leaf), (_, expected_leaf) in zip(leaves, expected, strict=True):
        shape, expected_shape = np.shape(leaf), np.shape(expected_leaf)
        if shape != expected_shape:
            leaf_name = name + jax.tree_util.keystr(path)
            raise ValueError(f"{leaf_name} has the shape {shape}; allowed is {expected_shape}")
