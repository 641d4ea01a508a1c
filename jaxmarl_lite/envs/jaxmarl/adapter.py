"""The adapter from JaxMARL's environments to the library's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.base import (
    AdaptedEnvironment,
    cast_like,
    make_timestep,
    strong_dtypes,
)
from jaxmarl_lite.types import Array, Observation, PyTree, TimeStep


class JaxMARLState(NamedTuple):
    """The state of an episode between two steps.

    Attributes:
        inner: JaxMARL's own state.
        time: [] int, steps of the episode taken so far.
        key: typed key of the steps to come: JaxMARL draws random numbers in some of them.
    """

    inner: PyTree
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """The adapter's description of one kind of JaxMARL environment.

    In the functions below the first argument is the JaxMARL environment, and the second its state.
    """

    return_description: str
    """The meaning of the return, in words."""
    global_state: Callable[[Any, PyTree, dict[str, Array]], Array]
    """``(env, state, observations) -> [S]``, the state for a central critic."""
    team_reward_only: bool
    """JaxMARL gives every agent one reward, that of the team."""
    action_mask: Callable[[Any, PyTree], Array] | None = None
    """Legal actions ``[N, A]`` bool, among the actions that the agents have at all."""
    alive: Callable[[Any, PyTree], Array] | None = None
    """Agents that still act, ``[N]`` bool; None: all of them, always."""
    is_terminal: Callable[[Any, PyTree], Array] | None = None
    """Whether the episode is truly over, [] bool; None: only the time limit ends it."""
    is_win: Callable[[Any, PyTree], Array] | None = None
    """Whether an episode that is over was won, [] bool."""
    win_condition: str = ""
    """The meaning of a win, in words."""
    action_names: Callable[[Any], tuple[str, ...]] | None = None
    """Words for the discrete actions of the agent that has most."""
    shaped_reward: Callable[[dict[str, Any]], Array] | None = None
    """A shaped reward ``[N]`` from JaxMARL's infos."""


class JaxMARLEnvironment(AdaptedEnvironment):
    """A JaxMARL environment as the library's ``Environment``; built by ``jaxmarl_lite.make``.

    Observations and actions of heterogeneous agents are padded with zeros; the action mask marks
    the actions that exist.

    Args:
        env: the JaxMARL environment.
        adapter_spec: the description of its kind.
        name: its name in ``spec``.
        reward: ``team`` or ``individual``; see the package's docstring.
        agent_id: append the agent's one-hot number to its observation.
        shaping: weight of the shaped reward, 0 or more.
    """

    def __init__(
        self,
        env: Any,
        adapter_spec: AdapterSpec,
        name: str,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
        shaping: float = 0.0,
    ):
        individual = not adapter_spec.team_reward_only
        super().__init__(env, name, len(env.agents), individual, reward, agent_id)
        self._adapter_spec, self._shaping = adapter_spec, shaping
        spaces = [env.action_spaces[agent] for agent in env.agents]
        self._discrete = hasattr(spaces[0], "n")
        self._action_sizes = [int(x.n if self._discrete else x.shape[0]) for x in spaces]
        sizes = np.array(self._action_sizes)
        self._action_exists = np.arange(sizes.max()) < sizes[:, None]  # [N, A]

    def _spec_fields(self) -> dict[str, Any]:
        adapter_spec, action_size = self._adapter_spec, max(self._action_sizes)
        if self._discrete:
            get_names = adapter_spec.action_names
            actions = dict(
                action_type="discrete", action_names=get_names(self._env) if get_names else ()
            )
        else:
            low, high = (0.0,) * action_size, (1.0,) * action_size
            actions = dict(action_type="continuous", action_low=low, action_high=high)
        description = adapter_spec.return_description
        if self._shaping:
            description += f", plus {self._shaping:g} times JaxMARL's shaped reward"
        return dict(
            max_episode_steps=int(self._env.max_steps),
            return_description=description,
            win_condition=adapter_spec.win_condition,
            **actions,
        )

    def reset(self, key: Array) -> tuple[JaxMARLState, TimeStep]:
        """Begins an episode.

        Args:
            key: typed random key.

        Returns:
            The state and the first time step.
        """
        reset_key, next_key = jax.random.split(key)
        obs, inner = self._env.reset(reset_key)
        inner = strong_dtypes(inner)
        state = JaxMARLState(inner, jnp.zeros((), jnp.int32), next_key)
        return state, make_timestep(self._observe(inner, obs))

    def step(self, state: JaxMARLState, action: Array) -> tuple[JaxMARLState, TimeStep]:
        """Takes one joint action.

        Args:
            state: the state of the episode.
            action: ``[N]`` int when discrete, ``[N, A]`` float in [0, 1] when continuous; numbers
                outside are clipped.

        Returns:
            The next state and the time step, without costs (K = 0).
        """
        adapter_spec, env = self._adapter_spec, self._env
        step_key, next_key = jax.random.split(state.key)
        # `step_env` and not `step`, which would reset an episode that is over
        obs, inner, rewards, _, infos = env.step_env(
            step_key, state.inner, self._to_native_actions(action)
        )
        inner = cast_like(state.inner, inner)
        reward = jnp.stack([jnp.asarray(rewards[agent], float) for agent in env.agents])
        if self._reward == "team":
            reward = reward[0] if adapter_spec.team_reward_only else reward.sum()
        if adapter_spec.shaped_reward is not None and self._shaping:
            reward = reward + self._shaping * adapter_spec.shaped_reward(infos).sum()
        next_state = JaxMARLState(inner, state.time + 1, next_key)
        # JaxMARL's own flags are not used: they make a time limit look like an end
        return next_state, make_timestep(
            self._observe(inner, obs),
            reward,
            False if adapter_spec.is_terminal is None else adapter_spec.is_terminal(env, inner),
            next_state.time >= env.max_steps,
        )

    def is_win(self, state: JaxMARLState) -> Array:
        """Returns whether the episode that ended in a state was won.

        Args:
            state: the last state of an episode.

        Returns:
            [] bool.
        """
        assert self._adapter_spec.is_win is not None
        return self._adapter_spec.is_win(self._env, state.inner)

    def _to_native_actions(self, action: Array) -> dict[str, Array]:
        """Returns JaxMARL's actions by agent, without the padded dimensions."""
        if self._discrete:
            return dict(zip(self._env.agents, action.astype(jnp.int32), strict=True))
        clipped = jnp.clip(action, 0.0, 1.0)
        return {
            agent: clipped[i, : self._action_sizes[i]] for i, agent in enumerate(self._env.agents)
        }

    def _observe(self, inner: PyTree, obs: dict[str, Array]) -> Observation:
        adapter_spec, env = self._adapter_spec, self._env
        views = [jnp.asarray(obs[agent], float).reshape(-1) for agent in env.agents]
        obs_size = max(map(len, views))
        mask = jnp.asarray(self._action_exists)
        if adapter_spec.action_mask is not None and self._discrete:
            mask = mask & adapter_spec.action_mask(env, inner)
        return self._observation(
            jnp.stack([jnp.pad(view, (0, obs_size - len(view))) for view in views]),
            jnp.asarray(adapter_spec.global_state(env, inner, obs), float),
            mask,
            None if adapter_spec.alive is None else adapter_spec.alive(env, inner),
        )
