"""One adapter from Jumanji's environments to the library's protocol."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jumanji.environments.routing.cleaner.env import Cleaner
from jumanji.environments.routing.connector.env import Connector
from jumanji.environments.routing.lbf.env import LevelBasedForaging
from jumanji.environments.routing.mmst.env import MMST
from jumanji.environments.routing.multi_cvrp.env import MultiCVRP
from jumanji.environments.routing.robot_warehouse.env import RobotWarehouse
from jumanji.environments.swarms.search_and_rescue.env import SearchAndRescue

from jaxmarl_lite.envs.jumanji import animation, graphs, grids, swarms
from jaxmarl_lite.envs.jumanji.adapter_spec import AdapterSpec
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep

ADAPTER_SPECS: dict[type, AdapterSpec] = {
    LevelBasedForaging: grids.foraging,
    RobotWarehouse: grids.warehouse,
    Connector: grids.connector,
    Cleaner: grids.cleaner,
    MMST: graphs.spanning_tree,
    MultiCVRP: graphs.routes,
    SearchAndRescue: swarms.search_and_rescue,
}
"""What the adapter knows about each Jumanji class that it accepts."""


def _find_adapter_spec(env: Any) -> AdapterSpec:
    for kind, particulars in ADAPTER_SPECS.items():
        if isinstance(env, kind):
            return particulars
    allowed = ", ".join(kind.__name__ for kind in ADAPTER_SPECS)
    raise ValueError(
        f"env: {type(env).__name__} is not one of Jumanji's multi-agent environments; allowed: "
        f"{allowed}"
    )


def _strong_dtypes(state: Any) -> Any:
    """The same values with firm dtypes: Python numbers in a state would make ``step`` compile
    twice.
    """
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), state)


def _cast_like(before: Any, after: Any) -> Any:
    """The values of ``after`` with the dtypes of ``before``: under x64 some of Jumanji's steps
    widen their state.
    """
    return jax.tree.map(
        lambda old, new: jax.lax.convert_element_type(new, old.dtype), before, after
    )


class JumanjiEnvironment:
    """A Jumanji environment as the library's ``Environment``.

    env: one of the classes in ``ADAPTER_SPECS``, built as you like.
    name: how it is called in ``spec``; by default the class's name.
    reward: ``team``: every agent gets the team's number (Jumanji's scalar, or the sum over its
        agents); ``individual``: each its own, where Jumanji gives one per agent.
    agent_id: append the agent's one-hot number to its view (never to the state).

    The states are Jumanji's own. Time limits are truncations here (last, with discount 1), whatever
    Jumanji calls them. With 64-bit numbers Connector and MMST do not run: branches inside Jumanji
    then differ in dtype. Raises ValueError, naming the field, when the environment or the reward
    form cannot be had.
    """

    def __init__(
        self,
        env: Any,
        name: str | None = None,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
    ):
        self._its = _find_adapter_spec(env)
        self._name = name or type(env).__name__
        self._reward: Literal["team", "individual"] = reward
        self._agent_id = agent_id
        self._env = env
        complaint = self._its.validate(env)
        if complaint:
            raise ValueError(f"{self._name}: {complaint}")
        if not isinstance(agent_id, bool):
            raise ValueError(
                f"{self._name}: agent_id is {agent_id!r}; allowed is one of True, False"
            )
        allowed = ("team", "individual") if self._its.individual else ("team",)
        if reward not in allowed:
            why = (
                ""
                if self._its.individual
                else f" ({type(env).__name__} gives one number for the whole team)"
            )
            raise ValueError(
                f"{self._name}: reward must be {' or '.join(map(repr, allowed))}{why}, not "
                f"{reward!r}"
            )

    def __repr__(self) -> str:
        return (
            f"JumanjiEnvironment({self._name!r}, reward={self._reward!r}, "
            f"agent_id={self._agent_id})"
        )

    @property
    def unwrapped(self) -> Any:
        """The Jumanji environment inside."""
        return self._env

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings; found by tracing ``reset`` once, without compiling."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        key = jax.eval_shape(jax.random.key, 0)
        _, timestep = jax.eval_shape(self.reset, key)
        obs = timestep.obs
        bounds = self._its.bounds(self._env)
        low, high = bounds if bounds is not None else (None, None)
        return EnvSpec(
            name=self._name,
            num_agents=self._its.num_agents(self._env),
            obs_size=obs.agents_view.shape[-1],
            global_state_size=obs.global_state.shape[-1],
            action_type="discrete" if bounds is None else "continuous",
            action_size=obs.action_mask.shape[-1],
            max_episode_steps=self._its.limit(self._env),
            reward_type=self._reward,
            return_description=self._its.return_description(self._env),
            max_return=self._its.max_return(self._env),
            action_low=None if low is None else tuple(map(float, low)),
            action_high=None if high is None else tuple(map(float, high)),
            action_names=self._its.action_names,
        )

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        """Begin an episode from a key; answers Jumanji's state and the first time step."""
        state, first = self._env.reset(key)
        state = _strong_dtypes(state)
        num_agents = self._its.num_agents(self._env)
        timestep = TimeStep(
            obs=self._observe(state, first.observation),
            reward=jnp.zeros(num_agents, float),
            cost=jnp.zeros((num_agents, 0), float),
            discount=jnp.ones((), float),
            last=jnp.zeros((), bool),
        )
        return state, timestep

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Take one joint action, ``[N]`` int or ``[N, A]`` float inside the bounds."""
        if self._its.bounds(self._env) is None:
            action = action.astype(int)
        after, jumped = self._env.step(state, action)
        after = _cast_like(state, after)
        num_agents = self._its.num_agents(self._env)
        reward = jnp.asarray(jumped.reward, float)
        if self._reward == "team":
            reward = jnp.broadcast_to(reward.sum(), (num_agents,))
        over = self._its.is_terminal(self._env, state, action, after)
        timestep = TimeStep(
            obs=self._observe(after, jumped.observation),
            reward=reward,
            cost=jnp.zeros((num_agents, 0), float),
            discount=1.0 - over.astype(float),
            last=jumped.last(),
        )
        return after, timestep

    def animate(self, states: Sequence[Any], path: str | Path, fps: int = 5) -> Path:
        """Write a GIF of a list of states of one world with Jumanji's own viewer; no window is
        opened.

        fps: frames per second. Answers the path. Raises ValueError for an empty list or a path that
        is not ``.gif``.
        """
        return animation.write_gif(self._env, states, path, fps, self._its.video_limits)

    def _observe(self, state: Any, seen: Any) -> Observation:
        its, env = self._its, self._env
        view = its.agents_view(env, state, seen)
        num_agents = view.shape[0]
        whole = view.reshape(-1) if its.global_state is None else its.global_state(env, state, seen)
        if self._agent_id:
            view = jnp.concatenate([view, jnp.eye(num_agents, dtype=view.dtype)], axis=-1)
        alive = jnp.ones(num_agents, bool) if its.alive is None else its.alive(env, state, seen)
        return Observation(
            agents_view=view,
            global_state=whole,
            action_mask=its.action_mask(env, state, seen),
            alive=alive,
        )
