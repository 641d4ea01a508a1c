"""What the result of a traced function depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

from jaxmarl_lite.types import PyTree


def used_inputs(function: Callable[..., PyTree], *args: PyTree) -> list[bool]:
    """Returns for every array in the arguments whether a function's result depends on it.

    A function that is called inside counts as depending on all of its arguments.

    Args:
        function: a pure function.
        *args: its arguments, or their shapes and dtypes.

    Example:
        >>> used_inputs(lambda x, y: (x + y, 2 * x)[1], 1.0, 2.0)
        [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    _, live = _live(jaxpr)
    return [x in live for x in jaxpr.invars]


def without_dead_code(traced: ClosedJaxpr) -> ClosedJaxpr:
    """Returns a traced function without the equations that its result does not depend on.

    Args:
        traced: result of `jax.make_jaxpr`.
    """
    equations, _ = _live(traced.jaxpr)
    return traced.replace(jaxpr=traced.jaxpr.replace(eqns=equations))


def _live(jaxpr: Any) -> tuple[list[Any], set[Any]]:
    """Returns the equations and variables that the outputs depend on."""
    live = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            equations.insert(0, equation)
            live |= {x for x in equation.invars if not isinstance(x, Literal)}
    return equations, live
