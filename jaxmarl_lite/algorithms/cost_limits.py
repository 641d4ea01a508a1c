"""Limits on costs, by the cost's name: one number for all agents, or one number per agent.

A limit is the expected undiscounted cost per episode of one agent, in the unit of the cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import validation
from jaxmarl_lite.types import Array, EnvSpec, Number, PyTree

ALL_COSTS = "*"
"""The name that stands for every cost of the environment."""


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """Limits by name, as a pytree whose leaves are the numbers, so that they can be swept.

    Attributes:
        names: names of the costs, or `ALL_COSTS`.
        values: for each name one limit, or one limit per agent, in cost per episode; may be traced.
    """

    names: tuple[str, ...] = ()
    values: tuple[tuple[Number, ...], ...] = ()

    def to_dict(self) -> dict[str, Number | list[Number]]:
        """Returns the limits by name in plain data, as `parse_cost_limits` takes them.

        Returns:
            For each name a number, or a list with one number per agent.
        """
        return {
            name: v[0] if len(v) == 1 else list(v)
            for name, v in zip(self.names, self.values, strict=True)
        }

    def __str__(self) -> str:
        """Returns ``name=limit, ...``, or "the environment's" where no limit is set."""
        return (
            ", ".join(f"{name}={value}" for name, value in self.to_dict().items())
            or "the environment's"
        )


jax.tree_util.register_dataclass(CostLimits, data_fields=["values"], meta_fields=["names"])

if TYPE_CHECKING:
    CostLimit = CostLimits | Mapping[str, Number | Sequence[Number]] | Number
else:
    CostLimit = CostLimits
"""The forms in which a config accepts its limits; it stores `CostLimits`."""


def parse_cost_limits(limits: CostLimit, field: str) -> CostLimits:
    """Returns the limits that a user gave as a mapping by name, or as one number for every cost.

    Args:
        limits: a mapping from a cost's name to a number or to one number per agent, one number for
            every cost, or limits that are parsed already; in cost per episode, 0 or more, inf for
            no limit.
        field: name of the field, for error messages.

    Returns:
        The limits, with plain Python numbers (traced ones unchanged).

    Raises:
        ValueError: for a limit that is negative, NaN or not a number; the message names the limit
            and the field.

    Example:
        >>> parse_cost_limits({"velocity": 25.0, "contact": [1, 2]}, "cost_limit")
        CostLimits(names=('velocity', 'contact'), values=((25.0,), (1.0, 2.0)))
        >>> parse_cost_limits(25, "cost_limit").to_dict()
        {'*': 25.0}
        >>> parse_cost_limits({"velocity": -1.0}, "cost_limit")
        Traceback (most recent call last):
            ...
        ValueError: cost_limit of 'velocity' is -1.0; allowed is a number from 0 up ...
    """
    limits = limits.to_dict() if isinstance(limits, CostLimits) else limits
    by_name = limits if isinstance(limits, Mapping) else {ALL_COSTS: limits}
    for name in by_name:
        _check_name(name, field)
    parsed: list[Number | tuple[Number, ...]] = [
        validation.check_limit(field if name == ALL_COSTS else f"{field} of {name!r}", limit)
        for name, limit in by_name.items()
    ]
    return CostLimits(tuple(by_name), tuple(x if isinstance(x, tuple) else (x,) for x in parsed))


def parse_words(arguments: Sequence[str], field: str) -> CostLimits:
    """Returns the limits that words of the command line describe.

    Args:
        arguments: ``NAME=LIMIT``, ``NAME=LIMIT,LIMIT...`` with one limit per agent, or a number
            alone, which is the limit of every cost.
        field: name of the option, for error messages.

    Returns:
        The limits.

    Raises:
        ValueError: for a word of another form, or a cost that is named twice.

    Example:
        >>> parse_words(["velocity=25", "contact=1,2"], "--cost-limit").to_dict()
        {'velocity': 25.0, 'contact': [1.0, 2.0]}
    """
    forms = "NAME=LIMIT, NAME=LIMIT,LIMIT... or one number for every cost"
    limits: dict[str, float | list[float]] = {}
    for word in arguments:
        name, equals, text = word.rpartition("=")
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if not numbers or (equals and not name):
            raise validation.invalid(field, word, forms)
        limits[name or ALL_COSTS] = numbers if len(numbers) > 1 else numbers[0]
    if len(limits) < max(1, len(arguments)) or (ALL_COSTS in limits and len(limits) > 1):
        raise validation.invalid(field, " ".join(arguments), f"each cost once: {forms}")
    return parse_cost_limits(limits, field)


def to_words(limits: CostLimits) -> list[str]:
    """Returns limits in the form that `parse_words` takes.

    Args:
        limits: the limits.

    Returns:
        A word for each name.
    """
    return [
        f"{name}={','.join(map(str, values))}"
        for name, values in zip(limits.names, limits.values, strict=True)
    ]


def _check_name(name: object, field: str, cost_names: Sequence[str] | None = None) -> None:
    """Checks that a name is a string and, where ``cost_names`` are known, one of them."""
    if not isinstance(name, str):
        raise validation.invalid(f"cost in {field}", name, "a cost's name")
    if cost_names is not None and name not in (*cost_names, ALL_COSTS):
        raise validation.unknown_name(f"cost in {field}", name, cost_names)


def check(limits: CostLimits, spec: EnvSpec, field: str) -> None:
    """Checks that limits name the environment's costs, and that every cost has a limit.

    Args:
        limits: the limits.
        spec: the environment's sizes, costs and limits.
        field: name of the field, for error messages.

    Raises:
        ValueError: for an environment without costs, for a name that is none of its costs, for a
            number of limits that is neither one nor one per agent, and for a cost that has no limit
            from either side.
    """
    if not spec.num_costs:
        raise ValueError(
            f"{field} is {limits}, but {spec.name} has no costs; allowed is an environment with "
            "costs, such as safe/..., or any environment to which `with_costs` adds costs"
        )
    for name, values in zip(limits.names, limits.values, strict=True):
        _check_name(name, field, spec.cost_names)
        validation.check_limit(f"{field} of {name!r}", values, spec.num_agents)
    if spec.cost_limits is None and ALL_COSTS not in limits.names:
        for name in spec.cost_names:
            if name not in limits.names:
                raise ValueError(
                    f"{field} lacks the cost {name!r}; allowed is a limit for each cost of "
                    f"{spec.name}, which has no limits of its own, in cost per episode"
                )


def with_defaults(limits: CostLimits, spec: EnvSpec) -> CostLimits:
    """Returns the limit of every cost by its name.

    A limit for the cost's name comes first, then one for `ALL_COSTS`, then the environment's.

    Args:
        limits: the limits that are set.
        spec: the environment's costs and limits.

    Returns:
        Limits of all K costs in the order of ``spec.cost_names``; inf for a cost without a limit.
    """
    values_by_name = dict(zip(limits.names, limits.values, strict=True))
    env_limits = spec.cost_limits or (math.inf,) * spec.num_costs
    defaults = (
        values_by_name.get(ALL_COSTS, x if isinstance(x, tuple) else (x,)) for x in env_limits
    )
    return CostLimits(
        spec.cost_names,
        tuple(map(values_by_name.get, spec.cost_names, defaults)),  # type: ignore[arg-type]
    )


def override(changes: CostLimits, base: CostLimits) -> CostLimits:
    """Returns the limits of ``base``, where ``changes`` takes precedence.

    Args:
        changes: new limits; one for `ALL_COSTS` replaces all limits of the base.
        base: earlier limits.

    Returns:
        All limits of the changes, and those of the base whose cost the changes do not name.
    """
    if ALL_COSTS in changes.names:
        return changes
    return parse_cost_limits(base.to_dict() | changes.to_dict(), "cost_limit")


def as_array(limits: CostLimits, spec: EnvSpec) -> Array:
    """Returns the limit of every agent and cost as an array.

    Args:
        limits: the limits that are set.
        spec: the environment's sizes, costs and limits.

    Returns:
        ``[N, K]`` float, in cost per episode; inf where there is no limit.
    """
    columns = [
        jnp.broadcast_to(jnp.stack([jnp.asarray(x, float) for x in values]), (spec.num_agents,))
        for values in with_defaults(limits, spec).values
    ]
    return jnp.stack(columns, -1) if columns else jnp.zeros((spec.num_agents, 0))


def limits_of(config: object, spec: EnvSpec) -> np.ndarray:
    """Returns the limit of every agent and cost.

    The config's ``cost_limit``, if it has one, takes precedence over the environment's own limits.

    Args:
        config: config of an algorithm, or None for the environment's own limits.
        spec: spec of the environment.

    Returns:
        ``[N, K]``, in cost per episode; inf where there is no limit.
    """
    if not spec.num_costs:
        return np.zeros((spec.num_agents, 0), jnp.result_type(float))
    limits = getattr(config, "cost_limit", None)
    return np.asarray(as_array(limits if isinstance(limits, CostLimits) else CostLimits(), spec))


def learned_leaves(learner: PyTree) -> list[Array]:
    """Returns the leaves of a learner's state except the limits in its config.

    Limits may be infinite while everything that was learned is finite.

    Args:
        learner: the learner's state.
    """

    def is_limits(x: object) -> bool:
        return isinstance(x, CostLimits)

    return [x for x in jax.tree.leaves(learner, is_leaf=is_limits) if not is_limits(x)]


def exceeds_limit(cost: Array, limit: Array) -> Array:
    """Computes where mean costs exceed their limits.

    Args:
        cost: mean costs per episode, ``[N, K]``; NaN where no episode ended.
        limit: limits, ``[N, K]``.

    Returns:
        ``[N, K]``: 1 where the cost is above its limit, else 0; NaN where no episode ended.
    """
    return jnp.where(jnp.isnan(cost), jnp.nan, (cost > limit).astype(float))
