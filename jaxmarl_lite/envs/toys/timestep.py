"""Time steps and checks of fields, shared by all toys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation, TimeStep
from jaxmarl_lite.validation import MOST, check_int, check_number, check_table, invalid, to_plain


class _Named(Protocol):
    """Object with a name: a toy."""

    @property
    def name(self) -> str:
        """Name of the environment."""
        ...


def check_numbers(toy: _Named, integers: Mapping[str, int], reals: Sequence[str]) -> None:
    """Checks the numeric fields of a toy, and turns numbers of NumPy and JAX into Python's.

    Args:
        toy: Toy, a frozen dataclass; its fields are replaced.
        integers: Name of a field -> the lowest whole number that it may be.
        reals: Names of fields that must be finite numbers.

    Raises:
        ValueError: A field is no such number.
    """
    for name, low in integers.items():
        object.__setattr__(
            toy, name, check_int(f"{toy.name}: {name}", getattr(toy, name), low, MOST)
        )
    for name in reals:
        object.__setattr__(toy, name, check_number(f"{toy.name}: {name}", getattr(toy, name)))


def check_sizes(toy: _Named, *names: str) -> None:
    """Checks fields with a positive whole number for each of the two agents.

    Args:
        toy: Toy, a frozen dataclass; its fields are replaced by tuples of Python's numbers.
        *names: Names of the fields.

    Raises:
        ValueError: A field is no such pair.
    """
    for name in names:
        value = to_plain(getattr(toy, name))
        field = f"{toy.name}: {name}"
        if not isinstance(value, tuple) or len(value) != 2:
            raise invalid(field, value, "two positive whole numbers, one for each agent")
        object.__setattr__(toy, name, tuple(check_int(field, size, 1, MOST) for size in value))


def check_tables(toy: _Named, *names: str) -> None:
    """Checks fields that are tables: rows of equally many finite numbers.

    Args:
        toy: Toy, a frozen dataclass; its fields are replaced by tuples of tuples.
        *names: Names of the fields.

    Raises:
        ValueError: A field is no such table.
    """
    for name in names:
        object.__setattr__(toy, name, check_table(f"{toy.name}: {name}", getattr(toy, name)))


def make_timestep(
    obs: Observation,
    reward: Array | float = 0.0,
    terminated: Array | bool = False,
    last: Array | bool = False,
    cost: Array | None = None,
    num_costs: int = 0,
) -> TimeStep:
    """Builds a time step, filling in the parts that a toy leaves out.

    Args:
        obs: Observation of N agents.
        reward: Reward ``[N]``, or a single number that goes to every agent.
        terminated: Whether the episode is truly over: the discount is then 0, and the step is last.
        last: Whether the step is the last one of the episode, as by a time limit.
        cost: Cost ``[N, K]``; None means zeros.
        num_costs: K, where ``cost`` is None.

    Returns:
        The time step.
    """
    num_agents = obs.agents_view.shape[0]
    terminated = jnp.asarray(terminated)
    return TimeStep(
        obs=obs,
        reward=jnp.broadcast_to(jnp.asarray(reward, float), (num_agents,)),
        cost=jnp.zeros((num_agents, num_costs), float) if cost is None else cost,
        discount=1.0 - terminated.astype(float),
        last=terminated | last,
    )
