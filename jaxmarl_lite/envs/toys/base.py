"""The base of the toys: checks of their fields, the first step of an episode, observations."""

from __future__ import annotations

import abc
from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.base import make_timestep
from jaxmarl_lite.envs.errors import Rule
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import MOST, check_int, invalid, to_plain


class Toy(abc.ABC):
    """A small environment: a frozen dataclass with a field ``name``."""

    name: str

    @property
    @abc.abstractmethod
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        """Begins an episode.

        Args:
            key: Typed key of all draws of the episode; unused where nothing is drawn.

        Returns:
            ``(state, timestep)``: the first state and the first time step.
        """
        state = self._first_state(key)
        return state, make_timestep(self._observe(state), num_costs=self.spec.num_costs)

    def _first_state(self, key: Array) -> PyTree:
        """Returns the first state: by default the number of steps taken, [] int."""
        return jnp.zeros((), jnp.int32)

    @abc.abstractmethod
    def _observe(self, state: Any) -> Observation:
        """Returns the observation of a state."""

    def _check_fields(self, **rules: Rule) -> None:
        """Checks fields by their rules, and replaces them by the checked values."""
        for field, rule in rules.items():
            value = rule(f"{self.name}: {field}", getattr(self, field))
            object.__setattr__(self, field, value)


def two_sizes(name: str, value: object) -> tuple[int, ...]:
    """Checks a positive whole number for each of the two agents; the rule of a field.

    Args:
        name: Name of the field, for the message.
        value: Its value.

    Returns:
        A tuple of Python's numbers.

    Raises:
        ValueError: The value is no such pair.
    """
    value = to_plain(value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid(name, value, "two positive whole numbers, one for each agent")
    return tuple(check_int(name, size, 1, MOST) for size in value)


def numbered_view(num_agents: int) -> Array:
    """Returns a constant observation, 1 and the one-hot agent number.

    Agents with shared weights can differ by it.

    Args:
        num_agents: number of agents, N.

    Returns:
        ``[N, 1 + N]`` float.
    """
    return jnp.concatenate([jnp.ones((num_agents, 1)), jnp.eye(num_agents)], -1).astype(float)


def full_observation(view: Array, global_state: Array, num_actions: int) -> Observation:
    """Returns an observation in which every agent acts, and every action is legal.

    Args:
        view: Observation of each agent, ``[N, O]``.
        global_state: The state that a central critic sees, ``[S]``.
        num_actions: A, the number of actions.

    Returns:
        The observation.
    """
    num_agents = len(view)
    mask, alive = jnp.ones((num_agents, num_actions), bool), jnp.ones(num_agents, bool)
    return Observation(view, global_state, mask, alive)
