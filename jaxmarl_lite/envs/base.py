"""What environments share: time steps with defaults, checks of videos, the base of adapters."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import check_bool, check_choice, invalid


def make_timestep(
    obs: Observation,
    reward: Array | float = 0.0,
    terminated: Array | bool = False,
    last: Array | bool = False,
    cost: Array | None = None,
    num_costs: int = 0,
) -> TimeStep:
    """Builds a time step, filling in the parts that an environment leaves out.

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


def check_video(
    states: Sequence[PyTree], path: str | Path, suffixes: tuple[str, ...] = (".gif",)
) -> Path:
    """Checks the arguments of a method ``animate``, and makes the video's folder.

    Args:
        states: states of an episode.
        path: the file to write.
        suffixes: the endings that are allowed.

    Returns:
        The path.

    Raises:
        ValueError: for an empty list, or a path with another ending.
    """
    path = Path(path)
    if not states:
        raise ValueError("animate: states is empty; give at least one state")
    if path.suffix not in suffixes:
        raise ValueError(f"animate: path must end in {' or '.join(suffixes)}, not {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def strong_dtypes(tree: PyTree) -> PyTree:
    """Returns the same values with strong dtypes.

    Python numbers in a state are weakly typed, and would make ``step`` compile twice.

    Args:
        tree: arrays, the state after a reset.

    Returns:
        The arrays.
    """
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def cast_like(reference: PyTree, tree: PyTree) -> PyTree:
    """Returns the values of ``tree`` with the dtypes of ``reference``.

    Under x64 some simulators' steps widen their state.

    Args:
        reference: arrays, the state before a step.
        tree: arrays of the same structure, the state after it.

    Returns:
        The arrays.
    """
    return jax.tree.map(
        lambda old, new: jax.lax.convert_element_type(new, old.dtype), reference, tree
    )


class AdaptedEnvironment(abc.ABC):
    """Another library's environment as this library's ``Environment``.

    Args:
        env: the other library's environment.
        name: its name in ``spec``.
        num_agents: number of agents, N.
        individual: whether the other library gives one reward per agent.
        reward: ``team``: every agent gets the team's reward; ``individual``: each agent its own.
        agent_id: append the agent's one-hot number to its observation (never to the state).

    Raises:
        ValueError: that names the argument, where its value is not available.
    """

    def __init__(
        self,
        env: Any,
        name: str,
        num_agents: int,
        individual: bool,
        reward: Literal["team", "individual"],
        agent_id: bool,
    ):
        check_choice(f"reward of {name}", reward, ("team", "individual"))
        if reward == "individual" and not individual:
            reason = f"{type(env).__name__} gives one number for the whole team"
            raise invalid(f"reward of {name}", reward, f"team ({reason})")
        self._env, self._name, self._num_agents = env, name, num_agents
        self._reward: Literal["team", "individual"] = reward
        self._agent_id = check_bool(f"agent_id of {name}", agent_id)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._name!r}, reward={self._reward!r}, "
            f"agent_id={self._agent_id})"
        )

    @property
    def unwrapped(self) -> Any:
        """The other library's environment."""
        return self._env

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings, from one trace of ``reset`` that compiles nothing."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        obs = jax.eval_shape(self.reset, jax.eval_shape(jax.random.key, 0))[1].obs
        return EnvSpec(
            name=self._name,
            num_agents=self._num_agents,
            obs_size=obs.agents_view.shape[-1],
            global_state_size=obs.global_state.shape[-1],
            action_size=obs.action_mask.shape[-1],
            reward_type=self._reward,
            **self._spec_fields(),
        )

    @abc.abstractmethod
    def _spec_fields(self) -> dict[str, Any]:
        """Returns the fields of the spec that are neither names, nor sizes, nor the reward's."""

    @abc.abstractmethod
    def reset(self, key: Array) -> tuple[PyTree, TimeStep]:
        """Begins an episode; see ``jaxmarl_lite.types.Environment``.

        Args:
            key: typed random key.
        """

    def _observation(
        self, view: Array, global_state: Array, action_mask: Array, alive: Array | None
    ) -> Observation:
        """Returns an observation with the agents' numbers; without ``alive`` all agents act."""
        if self._agent_id:
            view = jnp.concatenate([view, jnp.eye(len(view), dtype=view.dtype)], axis=-1)
        alive = jnp.ones(len(view), bool) if alive is None else alive
        return Observation(view, global_state, action_mask, alive)
