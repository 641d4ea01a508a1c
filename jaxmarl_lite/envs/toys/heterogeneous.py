"""Environments with unequal agents: continuous reaching, and different numbers of actions."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.toys.timestep import check_numbers, check_sizes, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_choice


class ReachState(NamedTuple):
    """State of `Reach`, with D the dimensions.

    Attributes:
        position: Positions ``[2, D]``.
        target: Targets ``[2, D]``.
        time: Number of steps taken, [] int.
    """

    position: Array
    target: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Reach:
    """Each agent moves to its own target by continuous actions; best return 0.

    Actions are between -1 and 1, ``position += action / 2`` from 0, and targets are within 1/2 in
    every dimension, so that the action ``2 (target - position)`` is allowed and arrives at once. An
    agent's own reward is minus its squared distance over the number of agents; the team's is the
    sum. A time limit of ``steps`` cuts the episode off. The observation is target less position.

    Attributes:
        dims: Number of dimensions of each agent; the smaller ones are padded, and their padded
            action dimensions do nothing.
        steps: Steps of an episode.
        reward: "team" or "individual".
        name: Name of the environment.
    """

    dims: tuple[int, int] = (2, 2)
    steps: int = 4
    reward: Literal["team", "individual"] = "team"
    name: str = "toy/reach"

    def __post_init__(self):
        check_choice(f"{self.name}: reward", self.reward, ("team", "individual"))
        check_sizes(self, "dims")
        check_numbers(self, {"steps": 1}, ())

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        max_dims = max(self.dims)
        sizes = (2, max_dims, 2 * max_dims, "continuous", max_dims, self.steps)
        meaning = "minus the squared distances to the targets, mean over agents, summed over steps"
        return EnvSpec(
            self.name, *sizes, self.reward, meaning, 0.0, (-1.0,) * max_dims, (1.0,) * max_dims
        )

    def _mask(self) -> np.ndarray:
        """Returns the dimensions that exist, ``[2, D]`` bool."""
        return np.arange(max(self.dims)) < np.array(self.dims)[:, None]

    def _observe(self, state: ReachState) -> Observation:
        """Returns the observation: target less position."""
        offset = state.target - state.position
        return Observation(offset, offset.reshape(-1), jnp.asarray(self._mask()), jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[ReachState, TimeStep]:
        """Begins an episode at 0 with fresh targets.

        Args:
            key: Typed key of the targets.

        Returns:
            ``(state, timestep)``: positions, targets and time, and the first time step.
        """
        mask = self._mask()
        target = jax.random.uniform(key, mask.shape, float, -0.5, 0.5) * mask
        state = ReachState(jnp.zeros_like(target), target, jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: ReachState, action: Array) -> tuple[ReachState, TimeStep]:
        """Moves the agents.

        Args:
            state: State before the step.
            action: Actions ``[2, D]`` float between -1 and 1.

        Returns:
            ``(state, timestep)`` after the step.
        """
        position = state.position + 0.5 * action.astype(float) * self._mask()
        state = ReachState(position, state.target, state.time + 1)
        agent_reward = -jnp.square(position - state.target).sum(-1) / 2
        reward = agent_reward if self.reward == "individual" else agent_reward.sum()
        return state, make_timestep(self._observe(state), reward, last=state.time >= self.steps)


class HeterogeneousState(NamedTuple):
    """State of `HeterogeneousActions`.

    Attributes:
        target: Right action of each agent, ``[2]`` int.
        time: Number of steps taken, [] int.
        key: Typed key of later draws.
    """

    target: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class HeterogeneousActions:
    """Agents with different numbers of actions, and different lives, name what they see.

    The team receives, per step, the number of living agents that are right over the sum of all
    lives, so the best return is 1. Actions beyond an agent's own number are illegal, and wrong. A
    dead agent sees zeros and has action 0 left. The episode is truly over after the longest life.
    The observation is the one-hot right action.

    Attributes:
        sizes: Number of actions of each agent.
        lifetimes: Number of steps that each agent acts.
        name: Name of the environment.
    """

    sizes: tuple[int, int] = (2, 4)
    lifetimes: tuple[int, int] = (4, 4)
    name: str = "toy/unequal"

    def __post_init__(self):
        check_sizes(self, "sizes", "lifetimes")

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        max_actions = max(self.sizes)
        return EnvSpec(
            self.name,
            2,
            max_actions,
            2 * max_actions,
            "discrete",
            max_actions,
            max(self.lifetimes),
            "team",
            "share of right choices",
            1.0,
        )

    def _alive(self, time: Array) -> Array:
        """Returns the agents that act at a time, ``[2]`` bool."""
        return time < jnp.asarray(self.lifetimes)

    def _observe(self, state: HeterogeneousState) -> Observation:
        """Returns the observation; a dead agent sees zeros."""
        alive = self._alive(state.time)
        actions = jnp.arange(max(self.sizes))
        view = jax.nn.one_hot(state.target, actions.size, dtype=float) * alive[:, None]
        is_legal = actions[None] < jnp.asarray(self.sizes)[:, None]
        return Observation(
            view, view.reshape(-1), jnp.where(alive[:, None], is_legal, actions[None] == 0), alive
        )

    def _draw(self, key: Array, time: Array) -> HeterogeneousState:
        """Returns a state with freshly drawn right actions."""
        key, draw_key = jax.random.split(key)
        return HeterogeneousState(
            jax.random.randint(draw_key, (2,), 0, jnp.asarray(self.sizes), jnp.int32), time, key
        )

    def reset(self, key: Array) -> tuple[HeterogeneousState, TimeStep]:
        """Begins an episode with fresh right actions.

        Args:
            key: Typed key of all draws of the episode.

        Returns:
            ``(state, timestep)``: right actions, time and key, and the first time step.
        """
        state = self._draw(key, jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: HeterogeneousState, action: Array) -> tuple[HeterogeneousState, TimeStep]:
        """Compares the choices with the right actions, and draws new ones.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        is_right = (action == state.target) & self._alive(state.time)
        state = self._draw(state.key, state.time + 1)
        terminated = state.time >= max(self.lifetimes)
        return state, make_timestep(
            self._observe(state), is_right.astype(float).sum() / sum(self.lifetimes), terminated
        )
