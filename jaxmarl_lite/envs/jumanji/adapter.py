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
from jaxmarl_lite.envs.jumanji.adapter_spec import AdapterSpec, NativeObs
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, TimeStep

ADAPTER_SPECS: dict[type, AdapterSpec] = {
    LevelBasedForaging: grids.foraging,
    RobotWarehouse: grids.warehouse,
    Connector: grids.connector,
    Cleaner: grids.cleaner,
    MMST: graphs.spanning_tree,
    MultiCVRP: graphs.routes,
    SearchAndRescue: swarms.search_and_rescue,
}
"""The adapter's description of each Jumanji class that it accepts."""


def _find_adapter_spec(env: Any) -> AdapterSpec:
    for env_class, adapter_spec in ADAPTER_SPECS.items():
        if isinstance(env, env_class):
            return adapter_spec
    allowed = ", ".join(env_class.__name__ for env_class in ADAPTER_SPECS)
    raise ValueError(
        f"env: {type(env).__name__} is not one of Jumanji's multi-agent environments; allowed: "
        f"{allowed}"
    )


def _strong_dtypes(state: PyTree) -> PyTree:
    """Returns the same values with strong dtypes.

    Python numbers in a state are weakly typed, and would make ``step`` compile twice.
    """
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), state)


def _cast_like(reference: PyTree, tree: PyTree) -> PyTree:
    """Returns the values of ``tree`` with the dtypes of ``reference``.

    Under x64 some of Jumanji's steps widen their state.
    """
    return jax.tree.map(
        lambda old, new: jax.lax.convert_element_type(new, old.dtype), reference, tree
    )


class JumanjiEnvironment:
    """A Jumanji environment as the library's ``Environment``.

    The states are Jumanji's own. Time limits are truncations here (last, with discount 1), even
    where Jumanji calls them terminations. With 64-bit numbers Connector and MMST do not run:
    branches inside Jumanji then differ in dtype.

    Args:
        env: an instance of one of the classes in ``ADAPTER_SPECS``.
        name: its name in ``spec``; by default the class's name.
        reward: ``team``: every agent gets the team's reward (Jumanji's scalar, or the sum over its
            agents); ``individual``: each agent its own, where Jumanji gives one per agent.
        agent_id: append the agent's one-hot number to its observation (never to the state).

    Raises:
        ValueError: that names the argument, where the environment or the reward form is not
            available.
    """

    def __init__(
        self,
        env: Any,
        name: str | None = None,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
    ):
        self._adapter_spec = _find_adapter_spec(env)
        self._name = name or type(env).__name__
        self._reward: Literal["team", "individual"] = reward
        self._agent_id = agent_id
        self._env = env
        complaint = self._adapter_spec.validate(env)
        if complaint:
            raise ValueError(f"{self._name}: {complaint}")
        if not isinstance(agent_id, bool):
            raise ValueError(
                f"{self._name}: agent_id is {agent_id!r}; allowed is one of True, False"
            )
        allowed = ("team", "individual") if self._adapter_spec.individual else ("team",)
        if reward not in allowed:
            reason = (
                ""
                if self._adapter_spec.individual
                else f" ({type(env).__name__} gives one number for the whole team)"
            )
            raise ValueError(
                f"{self._name}: reward must be {' or '.join(map(repr, allowed))}{reason}, not "
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
        """Sizes and meanings, from one trace of ``reset`` that compiles nothing."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        key = jax.eval_shape(jax.random.key, 0)
        _, timestep = jax.eval_shape(self.reset, key)
        obs = timestep.obs
        bounds = self._adapter_spec.bounds(self._env)
        low, high = bounds if bounds is not None else (None, None)
        return EnvSpec(
            name=self._name,
            num_agents=self._adapter_spec.num_agents(self._env),
            obs_size=obs.agents_view.shape[-1],
            global_state_size=obs.global_state.shape[-1],
            action_type="discrete" if bounds is None else "continuous",
            action_size=obs.action_mask.shape[-1],
            max_episode_steps=self._adapter_spec.limit(self._env),
            reward_type=self._reward,
            return_description=self._adapter_spec.return_description(self._env),
            max_return=self._adapter_spec.max_return(self._env),
            action_low=None if low is None else tuple(map(float, low)),
            action_high=None if high is None else tuple(map(float, high)),
            action_names=self._adapter_spec.action_names,
        )

    def reset(self, key: Array) -> tuple[PyTree, TimeStep]:
        """Begins an episode.

        Args:
            key: typed random key.

        Returns:
            Jumanji's state and the first time step.
        """
        state, native_timestep = self._env.reset(key)
        state = _strong_dtypes(state)
        num_agents = self._adapter_spec.num_agents(self._env)
        timestep = TimeStep(
            obs=self._observe(state, native_timestep.observation),
            reward=jnp.zeros(num_agents, float),
            cost=jnp.zeros((num_agents, 0), float),
            discount=jnp.ones((), float),
            last=jnp.zeros((), bool),
        )
        return state, timestep

    def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """Takes one joint action.

        Args:
            state: Jumanji's state.
            action: ``[N]`` int when discrete, ``[N, A]`` float inside the bounds when continuous.

        Returns:
            Jumanji's next state and the time step, without costs (K = 0).
        """
        adapter_spec = self._adapter_spec
        if adapter_spec.bounds(self._env) is None:
            action = action.astype(int)
        next_state, native_timestep = self._env.step(state, action)
        next_state = _cast_like(state, next_state)
        num_agents = adapter_spec.num_agents(self._env)
        reward = jnp.asarray(native_timestep.reward, float)
        if self._reward == "team":
            reward = jnp.broadcast_to(reward.sum(), (num_agents,))
        # not Jumanji's own discount: several of its environments set that to 0 at a time limit
        is_terminal = adapter_spec.is_terminal(self._env, state, action, next_state)
        timestep = TimeStep(
            obs=self._observe(next_state, native_timestep.observation),
            reward=reward,
            cost=jnp.zeros((num_agents, 0), float),
            discount=1.0 - is_terminal.astype(float),
            last=native_timestep.last(),
        )
        return next_state, timestep

    def animate(self, states: Sequence[PyTree], path: str | Path, fps: int = 5) -> Path:
        """Writes a GIF of a list of states with Jumanji's own viewer, without opening a window.

        Args:
            states: Jumanji's states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, or a path that is not ``.gif``.
        """
        return animation.write_gif(self._env, states, path, fps, self._adapter_spec.video_limits)

    def _observe(self, state: PyTree, native_obs: NativeObs) -> Observation:
        adapter_spec, env = self._adapter_spec, self._env
        view = adapter_spec.agents_view(env, state, native_obs)
        num_agents = view.shape[0]
        global_state = (
            view.reshape(-1)
            if adapter_spec.global_state is None
            else adapter_spec.global_state(env, state, native_obs)
        )
        # after the state, which never has the one-hot numbers
        if self._agent_id:
            view = jnp.concatenate([view, jnp.eye(num_agents, dtype=view.dtype)], axis=-1)
        alive = (
            jnp.ones(num_agents, bool)
            if adapter_spec.alive is None
            else adapter_spec.alive(env, state, native_obs)
        )
        return Observation(
            agents_view=view,
            global_state=global_state,
            action_mask=adapter_spec.action_mask(env, state, native_obs),
            alive=alive,
        )
