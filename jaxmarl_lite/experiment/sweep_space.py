"""The points of a sweep: grids, random draws, and their notation on the command line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmarl_lite import validation
from jaxmarl_lite.validation import invalid

Setting = dict[str, Any]
"""Name of a setting -> value."""

_RANGE = "(low, high), (low, high, 'log'), (low, high, 'int') or a list of choices"


class Range(NamedTuple):
    """An interval of numbers.

    Attributes:
        low: lower end.
        high: upper end.
        kind: ``linear``, ``log`` (evenly in the logarithm) or ``int`` (whole numbers).
    """

    low: float
    high: float
    kind: str = "linear"

    def draw(self, generator: np.random.Generator) -> float | int:
        """Draws a number.

        Args:
            generator: source of the randomness.

        Returns:
            A number from ``low`` to ``high``.
        """
        if self.kind == "int":
            return int(generator.integers(int(self.low), int(self.high) + 1))
        if self.kind == "log":
            return float(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return float(generator.uniform(self.low, self.high))


def parse_space(name: str, space: Mapping[str, Any]) -> dict[str, Range | tuple[Any, ...]]:
    """Returns a search space: setting -> range or choices.

    Args:
        name: name of the argument, for messages.
        space: setting -> ``(low, high)``, ``(low, high, "log")``, ``(low, high, "int")`` as a
            tuple, or a list of choices.

    Raises:
        ValueError: the space is empty, or an entry has another form.

    Example:
        >>> parse_space("random", {"lr": (1e-4, 1e-2, "log"), "num_epochs": [2, 4]})
        {'lr': Range(low=0.0001, high=0.01, kind='log'), 'num_epochs': (2, 4)}
    """
    entries = validation.check_mapping(name, space)
    if not entries:
        raise invalid(name, space, f"a mapping from settings to {_RANGE}")
    return {field: _parse_entry(f"{name} of {field}", entry) for field, entry in entries.items()}


def _parse_entry(name: str, entry: Any) -> Range | tuple[Any, ...]:
    """Returns a range or choices."""
    if isinstance(entry, list):
        if not entry:
            raise invalid(name, entry, _RANGE)
        return tuple(validation.to_plain(entry))
    if not isinstance(entry, tuple) or len(entry) not in (2, 3):
        raise invalid(name, entry, _RANGE)
    kind = entry[2] if len(entry) == 3 else "linear"
    if kind not in ("linear", "log", "int"):
        raise invalid(name, entry, _RANGE)
    low = validation.check_number(name, entry[0], -1e300, 1e300)
    high = validation.check_number(name, entry[1], -1e300, 1e300)
    if not low < high or (kind == "log" and low <= 0):
        raise invalid(name, entry, "low below high" + (", both above 0" if kind == "log" else ""))
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise invalid(name, entry, "whole numbers as ends")
    return Range(low, high, kind)


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Returns all combinations of values.

    Args:
        grid: setting -> values.

    Returns:
        The points; the last setting changes fastest.

    Raises:
        ValueError: the grid is empty, or an entry is no sequence of values.

    Example:
        >>> grid_points({"lr": [1e-3, 1e-2], "num_epochs": [2]})
        [{'lr': 0.001, 'num_epochs': 2}, {'lr': 0.01, 'num_epochs': 2}]
    """
    entries = validation.check_mapping("grid", grid)
    plain = {name: validation.to_plain(values) for name, values in entries.items()}
    for name, values in plain.items():
        if not isinstance(values, tuple) or not values:
            raise invalid(f"grid of {name}", values, "a list of values, not empty")
        if len({repr(value) for value in values}) < len(values):
            raise invalid(f"grid of {name}", values, "different values")
    if not plain:
        raise invalid("grid", grid, "a mapping from settings to lists of values")
    return [dict(zip(plain, values, strict=True)) for values in itertools.product(*plain.values())]


def random_points(space: Mapping[str, Any], num_points: int, seed: int) -> list[Setting]:
    """Draws points at random.

    Args:
        space: as for `parse_space`.
        num_points: number of points.
        seed: seed of the draws.

    Returns:
        The points. The first n of a longer list are those of a shorter one.

    Raises:
        ValueError: as for `parse_space`.

    Example:
        >>> points = random_points({"lr": (1e-4, 1e-2, "log"), "num_epochs": [2, 4]}, 3, 0)
        >>> points[:2] == random_points({"lr": (1e-4, 1e-2, "log"), "num_epochs": [2, 4]}, 2, 0)
        True
    """
    entries = parse_space("random", space)
    generator = np.random.default_rng(validation.check_int("sweep_seed", seed, 0))
    return [
        {name: _draw(entry, generator) for name, entry in entries.items()}
        for _ in range(num_points)
    ]


def _draw(entry: Range | tuple[Any, ...], generator: np.random.Generator) -> Any:
    """Draws a value of one setting."""
    if isinstance(entry, Range):
        return entry.draw(generator)
    return entry[int(generator.integers(len(entry)))]


def parse_words(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Returns the grid or search space that words of the command line give.

    Args:
        option: name of the option, for messages.
        texts: ``FIELD=VALUE,VALUE``, or ``FIELD=LOW:HIGH`` with ``:log`` or ``:int`` behind it.

    Raises:
        ValueError: a word has another form.

    Example:
        >>> parse_words("--random", ["lr=1e-4:1e-2:log", "activation=relu,tanh"])
        {'lr': (0.0001, 0.01, 'log'), 'activation': ['relu', 'tanh']}
    """
    result: dict[str, Any] = {}
    for word in texts:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not (name and equals and text) or name in result:
            allowed = "FIELD=VALUE,VALUE,... or FIELD=LOW:HIGH[:log|:int], each field once"
            raise invalid(option, word, allowed)
        parts = [validation.parse_value(part) for part in text.split(":")]
        if len(parts) > 1:
            result[name] = tuple(parts)
        else:
            # parentheses hold one value: hidden_sizes=(64,64),(128,128)
            value = validation.parse_value(f"[{text}]")
            is_list = isinstance(value, list)
            result[name] = value if is_list else list(map(validation.parse_value, text.split(",")))
    return result


def show_value(value: Any) -> str:
    """Returns a value of a setting as short text.

    Args:
        value: the value.

    Example:
        >>> show_value(0.00030000000000000003), show_value((64, 64)), show_value("relu")
        ('0.0003', '(64, 64)', 'relu')
    """
    return f"{value:.6g}" if isinstance(value, float) else str(value)
