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

from jaxmarl_lite import validation
from jaxmarl_lite.types import Array, EnvSpec, Number

ALL_COSTS = "*"
"""The name that stands for every cost of the environment."""

_ALLOWED = "a number from 0 up (inf for no limit), or one for each agent"


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
    if isinstance(limits, CostLimits):
        return CostLimits(
            limits.names,
            tuple(map(_check_values, (f"{field} of {x!r}" for x in limits.names), limits.values)),
        )
    by_name = limits if isinstance(limits, Mapping) else {ALL_COSTS: limits}
    for name in by_name:
        _check_name(name, field)
    return CostLimits(
        tuple(by_name),
        tuple(_check_values(f"{field} of {name!r}", value) for name, value in by_name.items()),
    )


def _check_name(name: object, field: str) -> None:
    """Checks that the name of a cost is a string."""
    if not isinstance(name, str):
        raise ValueError(f"{field} names the cost {name!r}; allowed is a cost's name")


def _check_values(field: str, value: object) -> tuple[Number, ...]:
    """Returns the checked limits of one cost: one, or one per agent."""
    limit: Number | tuple[Number, ...] = validation.check_limit(field, value)
    return limit if isinstance(limit, tuple) else (limit,)


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
    costs = ", ".join(spec.cost_names)
    if not spec.num_costs:
        raise ValueError(
            f"{field} is {limits}, but {spec.name} has no costs; allowed is an environment with "
            "costs, such as "
            "safe/..., or any environment to which `with_costs` adds costs"
        )
    for name, values in zip(limits.names, limits.values, strict=True):
        if name not in (*spec.cost_names, ALL_COSTS):
            raise ValueError(f"{field} names the cost {name!r}; allowed for {spec.name} is {costs}")
        if len(values) not in (1, spec.num_agents):
            raise ValueError(
                f"{field} of {name!r} has {len(values)} numbers; allowed is one, or "
                f"{spec.num_agents}, one per agent"
            )
    if spec.cost_limits is None:
        for name in spec.cost_names:
            if name not in limits.names and ALL_COSTS not in limits.names:
                raise ValueError(
                    f"{field} lacks the cost {name!r}, for which {spec.name} has no limit of its "
                    "own; allowed is "
                    f"{_ALLOWED}, in cost per episode"
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
