"""One adapter from JaxMARL's environments to the library's protocol."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep


class JaxMARLState(NamedTuple):
    """A world between two steps."""

    inner: Any  # JaxMARL's own state
    time: Array  # [] int steps of the episode
    key: Array  # typed key of the steps to come: JaxMARL draws in some of them


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """What the adapter must know about one kind of JaxMARL environment."""

    return_description: str
    """What the return is."""
    global_state: Callable[[Any, Any, dict[str, Array]], Array]
    """``(env, state, observations) -> [S]``, what a central critic sees."""
    team_reward_only: bool
    """JaxMARL gives every agent one number, that of the team."""
    action_mask: Callable[[Any, Any], Array] | None = None
    """Legal actions ``[N, A]`` beyond what agents have at all."""
    alive: Callable[[Any, Any], Array] | None = None
    """``[N]``."""
    is_terminal: Callable[[Any, Any], Array] | None = None
    """Whether the episode is truly over; None: time alone ends it."""
    is_win: Callable[[Any, Any], Array] | None = None
    """Whether an episode that is over was won."""
    win_condition: str = ""
    """What that means."""
    action_names: Callable[[Any], tuple[str, ...]] | None = None
    """Words for the discrete actions of the agent that has most."""
    shaped_reward: Callable[[Any], Array] | None = None
    """A shaped reward ``[N]`` from JaxMARL's infos."""


class JaxMARLEnvironment:
    """A JaxMARL environment as the library's ``Environment``; built by ``jaxmarl_lite.make``.

    env: JaxMARL's. its: what is known about its kind. name: how it is called in ``spec``. reward,
    agent_id, shaping: see the package's docstring. Views and actions of unequal agents are padded
    with zeros; ``mask`` says which actions there are.
    """

    def __init__(
        self,
        env: Any,
        its: AdapterSpec,
        name: str,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
        shaping: float = 0.0,
    ):
        self._env, self._its, self._name = env, its, name
        self._reward: Literal["team", "individual"] = reward
        self._agent_id, self._shaping = agent_id, shaping
        spaces = [env.action_spaces[agent] for agent in env.agents]
        self._discrete = hasattr(spaces[0], "n")
        self._sizes = tuple(int(space.n if self._discrete else space.shape[0]) for space in spaces)
        self._there = np.arange(max(self._sizes)) < np.array(self._sizes)[:, None]  # [N, A]

    def __repr__(self) -> str:
        return (
            f"JaxMARLEnvironment({self._name!r}, reward={self._reward!r}, "
            f"agent_id={self._agent_id})"
        )

    @property
    def unwrapped(self) -> Any:
        """The JaxMARL environment inside."""
        return self._env

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings; found by tracing ``reset`` once, without compiling."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        _, timestep = jax.eval_shape(self.reset, jax.eval_shape(jax.random.key, 0))
        widest = max(self._sizes)
        return EnvSpec(
            name=self._name,
            num_agents=len(self._sizes),
            obs_size=timestep.obs.agents_view.shape[-1],
            global_state_size=timestep.obs.global_state.shape[-1],
            action_type="discrete" if self._discrete else "continuous",
            action_size=widest,
            max_episode_steps=int(self._env.max_steps),
            reward_type=self._reward,
            return_description=self._its.return_description,
            action_low=None if self._discrete else (0.0,) * widest,
            action_high=None if self._discrete else (1.0,) * widest,
            win_condition=self._its.win_condition,
            action_names=self._its.action_names(self._env)
            if self._its.action_names and self._discrete
            else (),
        )

    def reset(self, key: Array) -> tuple[JaxMARLState, TimeStep]:
        """Begin an episode from a key."""
        first, rest = jax.random.split(key)
        obs, inner = self._env.reset(first)
        inner = jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), inner)
        agents = len(self._sizes)
        timestep = TimeStep(
            self._observe(inner, obs),
            jnp.zeros(agents, float),
            jnp.zeros((agents, 0), float),
            jnp.ones((), float),
            jnp.zeros((), bool),
        )
        return JaxMARLState(inner, jnp.zeros((), jnp.int32), rest), timestep

    def step(self, state: JaxMARLState, action: Array) -> tuple[JaxMARLState, TimeStep]:
        """Take one joint action, ``[N]`` int or ``[N, A]`` float in [0, 1]."""
        its, env, agents = self._its, self._env, len(self._sizes)
        now, rest = jax.random.split(state.key)
        obs, inner, rewards, _, infos = env.step_env(now, state.inner, self._acts(action))
        inner = jax.tree.map(
            lambda old, new: jax.lax.convert_element_type(new, old.dtype), state.inner, inner
        )
        reward = jnp.stack([jnp.asarray(rewards[agent], float) for agent in env.agents])
        if self._reward == "team":
            reward = jnp.broadcast_to(
                reward[0] if its.team_reward_only else reward.sum(), (agents,)
            )
        if its.shaped_reward is not None and self._shaping:
            reward = reward + self._shaping * its.shaped_reward(infos).sum()
        over = jnp.zeros((), bool) if its.is_terminal is None else its.is_terminal(env, inner)
        after = JaxMARLState(inner, state.time + 1, rest)
        return after, TimeStep(
            self._observe(inner, obs),
            reward,
            jnp.zeros((agents, 0), float),
            1.0 - over.astype(float),
            over | (after.time >= env.max_steps),
        )

    def is_win(self, state: JaxMARLState) -> Array:
        """Whether the episode that ended in this state was won."""
        assert self._its.is_win is not None
        return self._its.is_win(self._env, state.inner)

    def _acts(self, action: Array) -> dict[str, Array]:
        """JaxMARL's actions by agent."""
        if self._discrete:
            return {agent: action[i].astype(jnp.int32) for i, agent in enumerate(self._env.agents)}
        kept = jnp.clip(action, 0.0, 1.0)
        return {agent: kept[i, : self._sizes[i]] for i, agent in enumerate(self._env.agents)}

    def _observe(self, inner: Any, obs: dict[str, Array]) -> Observation:
        its, env, agents = self._its, self._env, len(self._sizes)
        each = [jnp.asarray(obs[agent], float).reshape(-1) for agent in env.agents]
        widest = max(len(view) for view in each)
        view = jnp.stack([jnp.pad(view, (0, widest - len(view))) for view in each])
        if self._agent_id:
            view = jnp.concatenate([view, jnp.eye(agents, dtype=view.dtype)], -1)
        mask = jnp.asarray(self._there)
        if its.action_mask is not None and self._discrete:
            mask = mask & its.action_mask(env, inner)
        alive = jnp.ones(agents, bool) if its.alive is None else its.alive(env, inner)
        whole = jnp.asarray(its.global_state(env, inner, obs), float)
        return Observation(view, whole, mask, alive)
