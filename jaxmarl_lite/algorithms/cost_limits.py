"""Limits on costs as a user gives them: by the cost's name, one number for all agents or one for
each.

A limit is the expected undiscounted cost per episode of one agent, in the unit of the cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxmarl_lite import validation
from jaxmarl_lite.types import Array, EnvSpec, Number

ALL_COSTS = "*"
"""The name that stands for every cost of the environment."""

_ALLOWED = "a number from 0 up (inf for no limit), or one for each agent"


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """Limits by name; a pytree whose leaves are the numbers, so that they may be traced and
    swept.
    """

    names: tuple[str, ...] = ()
    values: tuple[tuple[Number, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As `parse_cost_limits` takes them, in plain data."""
        return {
            name: v[0] if len(v) == 1 else list(v)
            for name, v in zip(self.names, self.values, strict=True)
        }

    def __str__(self) -> str:
        return (
            ", ".join(f"{name}={value}" for name, value in self.to_dict().items())
            or "the environment's"
        )


jax.tree_util.register_dataclass(CostLimits, data_fields=["values"], meta_fields=["names"])

if TYPE_CHECKING:
    CostLimit = CostLimits | Mapping[str, Number | Sequence[Number]] | Number
else:
    CostLimit = CostLimits
"""What a config takes as its limits; it keeps `CostLimits`."""


def parse_cost_limits(given: Any, field: str) -> CostLimits:
    """Limits from a mapping of names to a number or a number per agent, or from one number for
    every cost.

    Raises:
        ValueError: a limit that is negative, NaN or no number; names it, and the field.
    """
    if isinstance(given, CostLimits):
        return CostLimits(
            given.names,
            tuple(map(_numbers, (f"{field} of {x!r}" for x in given.names), given.values)),
        )
    by_name = given if isinstance(given, Mapping) else {ALL_COSTS: given}
    for name in by_name:
        if not isinstance(name, str):
            raise ValueError(f"{field} names the cost {name!r}; allowed is a cost's name")
    return CostLimits(
        tuple(by_name),
        tuple(_numbers(f"{field} of {name!r}", value) for name, value in by_name.items()),
    )


def _numbers(field: str, value: Any) -> tuple[Any, ...]:
    limit = validation.check_limit(field, value)
    return limit if isinstance(limit, tuple) else (limit,)


def check(limits: CostLimits, spec: EnvSpec, field: str) -> None:
    """Raise ValueError unless there is a limit for every cost of the environment, and none for
    others.
    """
    costs = ", ".join(spec.cost_names)
    if not spec.num_costs:
        raise ValueError(
            f"{field} is {limits}, but {spec.name} has no costs; allowed is an environment with "
            "costs, such as "
            "safe/..., or one of your own that `with_costs` gives some"
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
    """The limit of every cost by its name, the environment's own where none is given."""
    given = dict(zip(limits.names, limits.values, strict=True))
    own = spec.cost_limits or (math.inf,) * spec.num_costs
    defaults = (given.get(ALL_COSTS, x if isinstance(x, tuple) else (x,)) for x in own)
    return CostLimits(spec.cost_names, tuple(map(given.get, spec.cost_names, defaults)))  # type: ignore[arg-type]


def override(given: CostLimits, base: CostLimits) -> CostLimits:
    """The limits given, and of the base those of which nothing is given; one for every cost leaves
    none of the base.
    """
    if ALL_COSTS in given.names:
        return given
    return parse_cost_limits(base.to_dict() | given.to_dict(), "cost_limit")


def as_array(limits: CostLimits, spec: EnvSpec) -> Array:
    """The limit of every agent and cost, ``[N, K]``; inf where there is none."""
    columns = [
        jnp.broadcast_to(jnp.stack([jnp.asarray(x, float) for x in values]), (spec.num_agents,))
        for values in with_defaults(limits, spec).values
    ]
    return jnp.stack(columns, -1) if columns else jnp.zeros((spec.num_agents, 0))
