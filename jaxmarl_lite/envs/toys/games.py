"""Matrix game, memory task, and a counter with both kinds of end."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.toys.timestep import check_numbers, check_tables, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_bool


@dataclasses.dataclass(frozen=True)
class MatrixGame:
    """Matrix game of one step: the team receives ``payoff[a0][a1]``.

    The best return is the largest entry of the table. The observation is constant, so softmax
    policies p0 and p1 have the expected return ``p0 @ payoff @ p1`` exactly, and every derivative
    of it, LIIR's meta-gradient among them, can be written down.

    Attributes:
        payoff: Table with a row per action of agent 0 and a column per action of agent 1, as many
            rows as columns.
        agent_id: Whether to append the one-hot agent number to the observation, so that agents with
            shared weights can differ.
        name: Name of the environment.
    """

    payoff: tuple[tuple[float, ...], ...]
    agent_id: bool = False
    name: str = "toy/matrix"

    def __post_init__(self):
        check_tables(self, "payoff")
        object.__setattr__(self, "agent_id", check_bool(f"{self.name}: agent_id", self.agent_id))
        if len(self.payoff[0]) != len(self.payoff):
            raise ValueError(
                f"{self.name}: payoff must have as many columns in every row as rows, not "
                f"{self.payoff}"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        best = max(max(row) for row in self.payoff)
        size = 3 if self.agent_id else 1
        return EnvSpec(
            self.name,
            2,
            size,
            1,
            "discrete",
            len(self.payoff),
            1,
            "team",
            "payoff of the game",
            best,
        )

    def _observe(self) -> Observation:
        """Returns the constant observation."""
        constant = jnp.ones((2, 1), float)
        view = (
            jnp.concatenate([constant, jnp.eye(2, dtype=float)], -1) if self.agent_id else constant
        )
        return Observation(
            view, jnp.ones(1, float), jnp.ones((2, len(self.payoff)), bool), jnp.ones(2, bool)
        )

    def reset(self, key: Array) -> tuple[Array, TimeStep]:
        """Begins an episode.

        Args:
            key: Typed key; unused.

        Returns:
            ``(state, timestep)``: the number of steps taken, [] int, and the first time step.
        """
        return jnp.zeros((), jnp.int32), make_timestep(self._observe())

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Plays once.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        reward = jnp.asarray(self.payoff, float)[action[0], action[1]]
        return state + 1, make_timestep(self._observe(), reward, terminated=True)


class MemoryState(NamedTuple):
    """State of `Memory`.

    Attributes:
        cue: Cue of each agent, ``[2]`` int.
        time: Number of steps taken, [] int.
    """

    cue: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory task: each agent sees a cue at first only, and names it after ``delay`` steps.

    The team receives the share of agents that are right, at the last step; the best return is 1.
    Without memory the expected return is at most ``1 / cues``. The observation is the one-hot cue
    (zeros later), and 1 when it is time to answer.

    Attributes:
        cues: Number of cues, and of actions, at least 2.
        delay: Number of steps before the answer, at least 1.
        name: Name of the environment.
    """

    cues: int = 2
    delay: int = 3
    name: str = "toy/memory"

    def __post_init__(self):
        check_numbers(self, {"cues": 2, "delay": 1}, ())

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        sizes = (2, self.cues + 1, 2 * self.cues + 1, "discrete", self.cues, self.delay + 1)
        return EnvSpec(self.name, *sizes, "team", "share of agents that recall their cue", 1.0)

    def _observe(self, state: MemoryState) -> Observation:
        """Returns the observation: the cue is visible at time 0 only."""
        cue = jax.nn.one_hot(state.cue, self.cues, dtype=float)
        visible_cue = jnp.where(state.time == 0, cue, 0.0)
        is_answer_time = jnp.full((2, 1), state.time == self.delay).astype(float)
        global_state = jnp.append(cue.reshape(-1), state.time / self.delay)
        mask = jnp.ones((2, self.cues), bool)
        return Observation(
            jnp.concatenate([visible_cue, is_answer_time], -1),
            global_state,
            mask,
            jnp.ones(2, bool),
        )

    def reset(self, key: Array) -> tuple[MemoryState, TimeStep]:
        """Begins an episode with fresh cues.

        Args:
            key: Typed key of the cues.

        Returns:
            ``(state, timestep)``: the cues and the time, and the first time step.
        """
        state = MemoryState(
            jax.random.randint(key, (2,), 0, self.cues, jnp.int32), jnp.zeros((), jnp.int32)
        )
        return state, make_timestep(self._observe(state))

    def step(self, state: MemoryState, action: Array) -> tuple[MemoryState, TimeStep]:
        """Waits, or at the last step answers.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int; only the last one counts.

        Returns:
            ``(state, timestep)`` after the step.
        """
        terminated = state.time == self.delay
        reward = jnp.where(terminated, (action == state.cue).astype(float).mean(), 0.0)
        state = state._replace(time=state.time + 1)
        return state, make_timestep(self._observe(state), reward, terminated)


class CounterState(NamedTuple):
    """State of `Counter`.

    Attributes:
        count: Number of steps at which both agents chose 1, [] int.
        time: Number of steps taken, [] int.
    """

    count: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Counter:
    """Counter that rises when both agents choose 1.

    Reaching the goal truly ends the episode, and the time limit cuts it off. The team receives 1 on
    reaching the goal, so the best return is 1. When both happen at the same step, the episode is
    truly over. Observation and state are the count over the goal.

    Attributes:
        goal: Count that ends the episode, from 1 to ``limit``.
        limit: Most steps of an episode.
        name: Name of the environment.
    """

    goal: int = 3
    limit: int = 6
    name: str = "toy/counter"

    def __post_init__(self):
        check_numbers(self, {"goal": 1, "limit": 1}, ())
        if self.goal > self.limit:
            raise ValueError(
                f"{self.name}: goal must be between 1 and limit={self.limit}, not {self.goal}"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        return EnvSpec(
            self.name, 2, 1, 1, "discrete", 2, self.limit, "team", "1 when the goal is reached", 1.0
        )

    def _observe(self, state: CounterState) -> Observation:
        """Returns the observation: the count over the goal."""
        share = state.count / self.goal
        view = jnp.broadcast_to(share, (2, 1))
        return Observation(view, share[None], jnp.ones((2, 2), bool), jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[CounterState, TimeStep]:
        """Begins an episode at 0.

        Args:
            key: Typed key that is unused.

        Returns:
            ``(state, timestep)``: count and time, and the first time step.
        """
        state = CounterState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: CounterState, action: Array) -> tuple[CounterState, TimeStep]:
        """Counts, or waits.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int; both 1 to count.

        Returns:
            ``(state, timestep)`` after the step.
        """
        state = CounterState(state.count + (action == 1).all().astype(jnp.int32), state.time + 1)
        terminated = state.count >= self.goal
        return state, make_timestep(
            self._observe(state),
            terminated.astype(float),
            terminated,
            last=state.time >= self.limit,
        )
