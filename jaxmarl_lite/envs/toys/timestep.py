"""What all toys answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation, TimeStep
from jaxmarl_lite.validation import MOST, check_int, check_number, check_table, invalid, to_plain


def check_numbers(toy: Any, whole: Mapping[str, int], real: Sequence[str]) -> None:
    """Raise ValueError for fields that are no whole numbers of at least so much, or no finite
    numbers.

    Numbers of NumPy and JAX become Python's.
    """
    for name, low in whole.items():
        object.__setattr__(
            toy, name, check_int(f"{toy.name}: {name}", getattr(toy, name), low, MOST)
        )
    for name in real:
        object.__setattr__(toy, name, check_number(f"{toy.name}: {name}", getattr(toy, name)))


def check_sizes(toy: Any, *names: str) -> None:
    """Raise ValueError for fields that are not a whole number for each of the two agents."""
    for name in names:
        value = to_plain(getattr(toy, name))
        field = f"{toy.name}: {name}"
        if not isinstance(value, tuple) or len(value) != 2:
            raise invalid(field, value, "two positive whole numbers, one for each agent")
        object.__setattr__(toy, name, tuple(check_int(field, each, 1, MOST) for each in value))


def check_tables(toy: Any, *names: str) -> None:
    """Raise ValueError for fields that are not rows of equally many finite numbers."""
    for name in names:
        object.__setattr__(toy, name, check_table(f"{toy.name}: {name}", getattr(toy, name)))


def make_timestep(
    obs: Observation,
    reward: Array | float = 0.0,
    over: Array | bool = False,
    last: Array | bool = False,
    cost: Array | None = None,
    num_costs: int = 0,
) -> TimeStep:
    """A time step; a single reward goes to every agent, what is over is last too, and no cost means
    zeros.
    """
    num_agents = obs.agents_view.shape[0]
    over = jnp.asarray(over)
    return TimeStep(
        obs=obs,
        reward=jnp.broadcast_to(jnp.asarray(reward, float), (num_agents,)),
        cost=jnp.zeros((num_agents, num_costs), float) if cost is None else cost,
        discount=1.0 - over.astype(float),
        last=over | last,
    )
