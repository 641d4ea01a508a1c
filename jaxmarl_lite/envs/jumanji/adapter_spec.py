"""What the adapter must know about one kind of Jumanji environment, as a record of small functions.

In the functions below ``env`` is the Jumanji environment, ``state`` its state and ``seen`` the
observation that it returned with that state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import Array

Env = Any
State = Any
NativeObs = Any


def time_limit(env: Env) -> int:
    """Most steps of an episode, where the environment keeps the number as ``time_limit``."""
    return int(env.time_limit)


def own_mask(env: Env, state: State, seen: NativeObs) -> Array:
    """The environment's own legal actions, ``[N, A]`` bool."""
    return seen.action_mask


def nothing(env: Env) -> None:
    """No answer: nothing to refuse, no best return known."""
    return None


def one_hot_cells(positions: Array, shape: tuple[int, int]) -> Array:
    """One grid per position: positions ``[N, 2]`` (row, column) to ``[N, rows, columns]`` bool with
    one True each.
    """
    rows, columns = positions[:, 0, None], positions[:, 1, None]
    here_row = rows == jnp.arange(shape[0])
    here_column = columns == jnp.arange(shape[1])
    return here_row[:, :, None] & here_column[:, None, :]


def sum_over_others(per_agent: Array) -> Array:
    """For each agent the sum over all the other agents: ``[N, ...]`` to ``[N, ...]`` float."""
    values = per_agent.astype(float)
    return values.sum(0) - values


def concat_features(per_agent: list[Array], shared: list[Array]) -> Array:
    """Flatten and join per-agent arrays ``[N, ...]``, and arrays that all agents share, to ``[N,
    O]``.
    """
    num_agents = per_agent[0].shape[0]
    parts = [x.reshape(num_agents, -1) for x in per_agent]
    parts += [jnp.broadcast_to(x.reshape(-1), (num_agents, x.size)) for x in shared]
    return jnp.concatenate([x.astype(float) for x in parts], axis=-1)


def flatten(*parts: Array) -> Array:
    """Flatten arrays of any shape to one vector ``[S]`` of floats."""
    return jnp.concatenate([jnp.asarray(x).reshape(-1).astype(float) for x in parts])


def has_non_noop_action(env: Env, state: State, seen: NativeObs) -> Array:
    """An agent acts as long as an action other than action 0, the no-op, is legal; ``[N]`` bool."""
    return seen.action_mask[:, 1:].any(-1)


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """One kind of Jumanji environment, told as functions; the adapter knows nothing else about
    it.
    """

    agents_view: Callable[[Env, State, NativeObs], Array]
    """Each agent's view, ``[N, O]``, already scaled."""
    is_terminal: Callable[[Env, State, Array, State], Array]
    """``(env, before, action, after)``: whether the episode is truly over, whatever the time limit
    says; [] bool."""
    return_description: Callable[[Env], str]
    """What the team's return is, in words."""
    individual: bool
    """Whether the environment gives one reward per agent."""
    global_state: Callable[[Env, State, NativeObs], Array] | None = None
    """What a central critic may see, ``[S]``; None: the agents' views, one after the other."""
    action_mask: Callable[[Env, State, NativeObs], Array] = own_mask
    """Legal actions, ``[N, A]`` bool."""
    alive: Callable[[Env, State, NativeObs], Array] | None = None
    """Agents that still act, ``[N]`` bool; None: all of them, always."""
    limit: Callable[[Env], int] = time_limit
    """Most steps of an episode."""
    max_return: Callable[[Env], float | None] = nothing
    """The highest return that can be reached, if known."""
    validate: Callable[[Env], str | None] = nothing
    """Why this environment cannot be used as it was built, or None."""
    num_agents: Callable[[Env], int] = lambda env: int(env.num_agents)
    bounds: Callable[[Env], tuple[np.ndarray, np.ndarray] | None] = nothing
    """Lowest and highest values of a continuous action, ``[A]`` each; None: the actions are
    discrete."""
    action_names: tuple[str, ...] = ()
    """A word for each discrete action."""
    video_limits: tuple[float, float] | None = None
    """Limits of both axes of a film, where Jumanji's viewer leaves its drawing outside the
    picture."""
