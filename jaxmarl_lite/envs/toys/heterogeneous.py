"""Worlds whose agents may differ: continuous reaching, and choices among different numbers of
actions.
"""

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
    """Places and targets, ``[2, D]``, and the steps taken, [] int."""

    place: Array
    target: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Reach:
    """Each agent moves to its own target; continuous actions between -1 and 1; best return 0.

    ``place += action / 2`` from 0, and targets are within 1/2 in every dimension, so that the
    action ``2 (target - place)`` is allowed and arrives at once. An agent's own reward is minus its
    squared distance over the number of agents; the team's is the sum. A time limit of ``steps``
    cuts the episode off. View: target less place.

    dims: dimensions of each agent; the smaller ones are padded, and their padded action dimensions
    do nothing.
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
        """Sizes and meanings."""
        size = max(self.dims)
        sizes = (2, size, 2 * size, "continuous", size, self.steps)
        meaning = "minus the squared distances to the targets, mean over agents, summed over steps"
        return EnvSpec(self.name, *sizes, self.reward, meaning, 0.0, (-1.0,) * size, (1.0,) * size)

    def _mask(self) -> np.ndarray:
        return np.arange(max(self.dims)) < np.array(self.dims)[:, None]

    def _observe(self, state: ReachState) -> Observation:
        gap = state.target - state.place
        return Observation(gap, gap.reshape(-1), jnp.asarray(self._mask()), jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[ReachState, TimeStep]:
        """Begin at 0 with fresh targets."""
        mask = self._mask()
        target = jax.random.uniform(key, mask.shape, float, -0.5, 0.5) * mask
        state = ReachState(jnp.zeros_like(target), target, jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: ReachState, action: Array) -> tuple[ReachState, TimeStep]:
        """Move: action ``[2, D]`` float between -1 and 1."""
        place = state.place + 0.5 * action.astype(float) * self._mask()
        state = ReachState(place, state.target, state.time + 1)
        own = -jnp.square(place - state.target).sum(-1) / 2
        reward = own if self.reward == "individual" else own.sum()
        return state, make_timestep(self._observe(state), reward, last=state.time >= self.steps)


class HeterogeneousState(NamedTuple):
    """What each agent should choose, ``[2]`` int; the steps taken, [] int; the key of later
    draws.
    """

    target: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class HeterogeneousActions:
    """Agents with different numbers of actions, and different lives; each must choose what it sees;
    best return 1.

    The team receives, per step, the number of living agents that are right over the sum of all
    lives. Actions beyond an agent's own number are illegal, and wrong. A dead agent sees zeros and
    has action 0 left. The episode is truly over after the longest life. View: the one-hot choice
    that is wanted.

    sizes: number of actions of each agent. lifetimes: number of steps that each agent acts.
    """

    sizes: tuple[int, int] = (2, 4)
    lifetimes: tuple[int, int] = (4, 4)
    name: str = "toy/unequal"

    def __post_init__(self):
        check_sizes(self, "sizes", "lifetimes")

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        most = max(self.sizes)
        return EnvSpec(
            self.name,
            2,
            most,
            2 * most,
            "discrete",
            most,
            max(self.lifetimes),
            "team",
            "share of right choices",
            1.0,
        )

    def _alive(self, time: Array) -> Array:
        return time < jnp.asarray(self.lifetimes)

    def _observe(self, state: HeterogeneousState) -> Observation:
        alive = self._alive(state.time)
        actions = jnp.arange(max(self.sizes))
        view = jax.nn.one_hot(state.target, actions.size, dtype=float) * alive[:, None]
        own = actions[None] < jnp.asarray(self.sizes)[:, None]
        return Observation(
            view, view.reshape(-1), jnp.where(alive[:, None], own, actions[None] == 0), alive
        )

    def _draw(self, key: Array, time: Array) -> HeterogeneousState:
        key, now = jax.random.split(key)
        return HeterogeneousState(
            jax.random.randint(now, (2,), 0, jnp.asarray(self.sizes), jnp.int32), time, key
        )

    def reset(self, key: Array) -> tuple[HeterogeneousState, TimeStep]:
        """Begin with fresh wishes."""
        state = self._draw(key, jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: HeterogeneousState, action: Array) -> tuple[HeterogeneousState, TimeStep]:
        """Choose: action ``[2]`` int."""
        right = (action == state.target) & self._alive(state.time)
        state = self._draw(state.key, state.time + 1)
        over = state.time >= max(self.lifetimes)
        return state, make_timestep(
            self._observe(state), right.astype(float).sum() / sum(self.lifetimes), over
        )
