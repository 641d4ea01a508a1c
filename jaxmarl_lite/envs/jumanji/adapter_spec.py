"""The adapter's description of one kind of Jumanji environment, as a record of small functions.

In the functions below ``env`` is the Jumanji environment, ``state`` its state and ``native_obs``
the observation that Jumanji returned with that state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import Array, PyTree

Env = Any
State = PyTree
NativeObs = PyTree


def time_limit(env: Env) -> int:
    """Returns the most steps of an episode, where the environment has a ``time_limit``.

    Args:
        env: the Jumanji environment.

    Returns:
        The limit, in steps.
    """
    return int(env.time_limit)


def native_action_mask(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns Jumanji's own mask of legal actions.

    Args:
        env: the Jumanji environment.
        state: its state.
        native_obs: Jumanji's observation of that state.

    Returns:
        ``[N, A]`` bool.
    """
    return native_obs.action_mask


def no_value(env: Env) -> None:
    """Returns None: no reason to refuse the environment, no best return known, no bounds.

    Args:
        env: the Jumanji environment.
    """
    return None


def one_hot_cells(positions: Array, shape: tuple[int, int]) -> Array:
    """Returns one grid per position, with one True each.

    Args:
        positions: ``[N, 2]`` int, (row, column).
        shape: rows and columns of the grids.

    Returns:
        ``[N, rows, columns]`` bool.
    """
    rows, columns = positions[:, 0, None], positions[:, 1, None]
    row_matches = rows == jnp.arange(shape[0])
    column_matches = columns == jnp.arange(shape[1])
    return row_matches[:, :, None] & column_matches[:, None, :]


def sum_over_others(per_agent: Array) -> Array:
    """Returns for each agent the sum over all the other agents.

    Args:
        per_agent: ``[N, ...]``, numbers or bools.

    Returns:
        ``[N, ...]`` float.
    """
    values = per_agent.astype(float)
    return values.sum(0) - values


def concat_features(per_agent: list[Array], shared: list[Array]) -> Array:
    """Flattens and joins the arrays of each agent, then the arrays that all agents share.

    Args:
        per_agent: at least one array ``[N, ...]``.
        shared: arrays of any shape, repeated for every agent.

    Returns:
        ``[N, O]`` float.
    """
    num_agents = per_agent[0].shape[0]
    parts = [x.reshape(num_agents, -1) for x in per_agent]
    parts += [jnp.broadcast_to(x.reshape(-1), (num_agents, x.size)) for x in shared]
    return jnp.concatenate([x.astype(float) for x in parts], axis=-1)


def flatten(*parts: Array) -> Array:
    """Flattens arrays of any shape and joins them to one vector.

    Args:
        *parts: arrays of any shape, numbers or bools.

    Returns:
        ``[S]`` float.
    """
    return jnp.concatenate([jnp.asarray(x).reshape(-1).astype(float) for x in parts])


def has_non_noop_action(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns which agents still act: those with a legal action other than 0, the no-op.

    Args:
        env: the Jumanji environment.
        state: its state.
        native_obs: Jumanji's observation of that state.

    Returns:
        ``[N]`` bool.
    """
    return native_obs.action_mask[:, 1:].any(-1)


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """One kind of Jumanji environment, described by functions.

    The adapter has no other knowledge of the environment.
    """

    agents_view: Callable[[Env, State, NativeObs], Array]
    """Each agent's observation, ``[N, O]``, already scaled."""
    is_terminal: Callable[[Env, State, Array, State], Array]
    """``(env, state, action, next_state)``: whether the episode is truly over, regardless of the
    time limit; [] bool."""
    return_description: Callable[[Env], str]
    """The meaning of the team's return, in words."""
    individual: bool
    """Whether the environment gives one reward per agent."""
    global_state: Callable[[Env, State, NativeObs], Array] | None = None
    """The state for a central critic, ``[S]``; None: the agents' observations, one after the
    other."""
    action_mask: Callable[[Env, State, NativeObs], Array] = native_action_mask
    """Legal actions, ``[N, A]`` bool."""
    alive: Callable[[Env, State, NativeObs], Array] | None = None
    """Agents that still act, ``[N]`` bool; None: all of them, always."""
    limit: Callable[[Env], int] = time_limit
    """Most steps of an episode."""
    max_return: Callable[[Env], float | None] = no_value
    """The highest return that can be reached, if known."""
    validate: Callable[[Env], str | None] = no_value
    """The reason why this environment cannot be used as it was built, or None."""
    num_agents: Callable[[Env], int] = lambda env: int(env.num_agents)
    """The number of agents, N."""
    bounds: Callable[[Env], tuple[np.ndarray, np.ndarray] | None] = no_value
    """Lowest and highest values of a continuous action, ``[A]`` each; None: the actions are
    discrete."""
    action_names: tuple[str, ...] = ()
    """A word for each discrete action."""
    video_limits: tuple[float, float] | None = None
    """Limits of both axes of a video, where Jumanji's viewer would draw outside the frame."""
