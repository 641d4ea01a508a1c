"""What all toys answer with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation, TimeStep


def check_numbers(toy: Any, whole: Mapping[str, int], real: Sequence[str]) -> None:
    """Raise ValueError for fields that are no whole numbers of at least so much, or no finite numbers."""
    for name, low in whole.items():
        value = getattr(toy, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{toy.name}: {name} is {value!r}; allowed is a whole number, {low} or more")
    for name in real:
        value = getattr(toy, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{toy.name}: {name} is {value!r}; allowed is a finite number")


def time_step(
    obs: Observation,
    reward: Array | float = 0.0,
    over: Array | bool = False,
    last: Array | bool = False,
    cost: Array | None = None,
    num_costs: int = 0,
) -> TimeStep:
    """A time step; a single reward goes to every agent, what is over is last too, and no cost means zeros."""
    num_agents = obs.view.shape[0]
    over = jnp.asarray(over)
    return TimeStep(
        obs=obs,
        reward=jnp.broadcast_to(jnp.asarray(reward, float), (num_agents,)),
        cost=jnp.zeros((num_agents, num_costs), float) if cost is None else cost,
        discount=1.0 - over.astype(float),
        last=over | last,
    )
