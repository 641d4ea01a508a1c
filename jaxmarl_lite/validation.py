"""Checks of values that users give: one rule for numbers, one phrasing of errors, ``NAME is VALUE;
allowed is ...``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmarl_lite.types import Algorithm, Environment, EnvSpec, Observation, PyTree

MOST = 2**31 - 1
"""The largest count: steps, sizes and updates are kept in 32 bits."""
_LONGEST = 120  # characters of a value in a message

_WORDS = (
    "name",
    "return_description",
    "max_return",
    "cost_descriptions",
    "cost_limits",
    "win_condition",
    "action_names",
)
"""Fields of a spec in which an environment may differ from the one an algorithm was made for."""


def to_python(value: Any) -> Any:
    """Returns a concrete 0-d number of NumPy or JAX as the Python number it shows, anything else
    unchanged.

    ``np.float32(0.99)`` is 0.99, and not 0.9900000095367432: the same in single precision, and the
    same in JSON.
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


def show(value: Any) -> str:
    """Returns a value as one short line for a message."""
    try:
        text = " ".join(repr(to_python(value)).split())
    except Exception:  # the repr of a user's object, or of an integer with thousands of digits
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def invalid(name: str, value: Any, allowed: str) -> ValueError:
    """Returns the error for a value that is not allowed."""
    return ValueError(f"{name} is {show(value)}; allowed is {allowed}")


def check_int(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """Returns a whole number as a Python int.

    Args:
        name: of the field, for the message.
        value: an integer or a float without a fraction (``1e6``), Python's, NumPy's or JAX's.
        low, high: the range that is allowed; ``high`` None for no upper bound.

    Raises:
        ValueError: for anything else, bools among it.
    """
    number = to_python(value)
    if isinstance(number, float) and math.isfinite(number) and number.is_integer():
        number = int(number)
    if (
        isinstance(number, int)
        and not isinstance(number, bool)
        and low <= number <= (number if high is None else high)
    ):
        return number
    is_open = high is None or (high >= MOST and not (isinstance(number, int) and number > high))
    raise invalid(
        name,
        value,
        "a whole number" + (f", {low} or more" if is_open else f" from {low} to {high}"),
    )


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, infinite: bool = False
) -> Any:
    """Returns a number as a Python float; a traced scalar is returned unchanged, because it has no
    value yet.

    Args:
        name: of the field, for the message.
        value: a number, Python's, NumPy's or JAX's, of no axes.
        low, high: the range that is allowed.
        infinite: whether infinities inside of the range are allowed.

    Raises:
        ValueError: for anything else; bools, NaN and arrays of more than one entry among it.
    """
    if isinstance(value, Tracer) and value.shape == ():
        return value
    number = to_python(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            number = float(number)
        except OverflowError:  # an int beyond the largest float
            number = math.nan
        if low <= number <= high and (infinite or math.isfinite(number)):
            return number
    bounds = f" from {low:g}" if low > -math.inf else ""
    bounds += f" to {high:g}" if high < math.inf else ""
    kind = "a number" if bounds else "a finite number"
    raise invalid(name, value, kind + bounds + (" (inf for no limit)" if infinite else ""))


def check_limit(name: str, value: Any) -> Any:
    """Returns a limit on a cost: a number from 0 up, inf for none, or a tuple of them, one per
    agent.

    Raises:
        ValueError: for anything else.
    """
    is_array = isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 1
    each = list(value) if is_array or isinstance(value, (tuple, list)) else [value]
    try:
        limits = tuple(check_number(name, x, 0.0, infinite=True) for x in each)
    except ValueError:
        limits = ()
    if not limits:
        raise invalid(name, value, "a number from 0 up (inf for no limit), or one for each agent")
    return limits if is_array or isinstance(value, (tuple, list)) else limits[0]


def check_table(name: str, value: Any, low: float = -math.inf) -> tuple[tuple[float, ...], ...]:
    """Returns rows of equally many finite numbers as tuples; raises ValueError for anything
    else.
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
    """Returns what an error from beneath says, as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:300] + ' ...'}"


def check_bool(name: str, value: Any) -> bool:
    """Returns a bool, Python's, NumPy's or JAX's, as Python's; raises ValueError for anything
    else.
    """
    flag = to_python(value)
    if not isinstance(flag, bool):
        raise invalid(name, value, "True or False")
    return flag


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Returns a word that is one of the choices; raises ValueError for anything else."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise invalid(name, value, f"one of {', '.join(choices)}")
    return str(value)


def check_path(name: str, value: Any) -> Path:
    """Returns a path with ``~`` expanded.

    Raises:
        ValueError: for anything but text or a path, for an empty one, for one that no file system
    can have.
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


def to_plain(value: Any) -> Any:
    """Returns arrays and lists as tuples of Python numbers, mappings as dicts, at every depth."""
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer) and value.ndim:
        value = list(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(to_plain, value))
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    return to_python(value)


def check_mapping(name: str, value: Any) -> dict[str, Any]:
    """Returns a mapping from words as a dict; raises ValueError for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise invalid(name, value, "a mapping from names to values")
    return dict(value)


def nearest_names(name: Any, known: Iterable[str], most: int = 3) -> list[str]:
    """Returns the known names that are most like a wrong one."""
    return difflib.get_close_matches(name, list(known), most, 0.5) if isinstance(name, str) else []


def unknown_name(what: str, name: Any, known: Iterable[str]) -> ValueError:
    """Returns the error for a name that does not exist, with what is allowed and the nearest
    names.
    """
    known = list(known)
    near = nearest_names(name, known)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return invalid(what, name, f"one of {', '.join(known)}{hint}")


def check_environment_object(env: Any) -> EnvSpec:
    """Returns the spec of an object that is an environment by its looks; raises ValueError for
    anything else.
    """
    spec = getattr(env, "spec", None)
    if isinstance(env, type) or not isinstance(spec, EnvSpec):
        raise invalid(
            "env", env, "an environment, an instance with spec, reset and step, as make returns it"
        )
    return spec


def check_fits(algorithm: Algorithm, env: Environment) -> EnvSpec:
    """Returns the spec of an environment whose sizes are those an algorithm was made for.

    Raises:
        ValueError: for sizes that differ, for what is no `Algorithm` or no environment.
    """
    if not isinstance(algorithm, Algorithm):
        raise invalid("algorithm", algorithm, "an Algorithm, as make_algorithm returns it")
    spec = check_environment_object(env)
    for field in dataclasses.fields(EnvSpec) if algorithm.spec is not None else ():
        made, have = getattr(algorithm.spec, field.name), getattr(spec, field.name)
        if made != have and field.name not in _WORDS:
            raise ValueError(
                f"env has {field.name} {have!r}; allowed is {made!r}, for which {algorithm.name} "
                "was made "
                f"(its spec is that of {algorithm.spec.name}, this is "
                f"{spec.name})"  # type: ignore[union-attr]
            )
    return spec


def check_key(name: str, key: Any) -> None:
    """Raise ValueError for anything but one random key of JAX, traced or not."""
    is_key = isinstance(key, jax.Array) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == np.uint32 and key.ndim == 1)  # the older raw form
    )
    if not is_key:
        raise invalid(
            name, key, "one random key, such as jax.random.key(0); use jax.vmap for several"
        )


def check_like(name: str, tree: PyTree, form: PyTree) -> None:
    """Raise ValueError for a tree whose structure or shapes differ from those of ``form``."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    expected, expected_structure = jax.tree_util.tree_flatten_with_path(form)
    if structure != expected_structure:
        raise ValueError(
            f"{name} is of another algorithm or environment; allowed is what `init` returned"
        )
    for (path, leaf), (_, like) in zip(leaves, expected, strict=True):
        if np.shape(leaf) != np.shape(like):
            where = name + jax.tree_util.keystr(path)
            raise ValueError(f"{where} has the shape {np.shape(leaf)}; allowed is {np.shape(like)}")


def check_obs(obs: Any, spec: EnvSpec) -> None:
    """Raise ValueError for anything but the observation of one copy of an environment of these
    sizes.
    """
    if not isinstance(obs, Observation):
        raise invalid("obs", obs, "an Observation, such as timestep.obs")
    agents = spec.num_agents
    shapes = (
        (agents, spec.obs_size),
        (spec.global_state_size,),
        (agents, spec.action_size),
        (agents,),
    )
    for field, value, shape in zip(Observation._fields, obs, shapes, strict=True):
        if np.shape(value) != shape:
            raise ValueError(
                f"obs.{field} has the shape {np.shape(value)}; allowed is {shape}, that of "
                f"{spec.name}"
            )
