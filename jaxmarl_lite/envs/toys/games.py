"""A matrix game, a memory task, and a counter with both kinds of end."""

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
    """One step, one table: the team receives ``payoff[a0][a1]``; best return: the table's largest
    entry.

    The view is constant, so softmax policies p0 and p1 have the expected return ``p0 @ payoff @
    p1`` exactly, and every derivative of it, LIIR's meta-gradient among them, can be written down.

    payoff: one row per action of agent 0, one column per action of agent 1, as many rows as
    columns.
    agent_id: append the one-hot agent number, so that agents with shared weights can differ.
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
        """Sizes and meanings."""
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
        constant = jnp.ones((2, 1), float)
        view = (
            jnp.concatenate([constant, jnp.eye(2, dtype=float)], -1) if self.agent_id else constant
        )
        return Observation(
            view, jnp.ones(1, float), jnp.ones((2, len(self.payoff)), bool), jnp.ones(2, bool)
        )

    def reset(self, key: Array) -> tuple[Array, TimeStep]:
        """Begin; the state is the number of steps taken."""
        return jnp.zeros((), jnp.int32), make_timestep(self._observe())

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Play once: action ``[2]`` int."""
        reward = jnp.asarray(self.payoff, float)[action[0], action[1]]
        return state + 1, make_timestep(self._observe(), reward, over=True)


class MemoryState(NamedTuple):
    """The cues, ``[2]`` int, and the steps taken, [] int."""

    cue: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Memory:
    """Each agent sees a cue at first only, and must name it after ``delay`` steps; best return 1.

    The team receives the share of agents that are right, at the last step. Without memory the
    expected return is at most ``1 / cues``. View: the one-hot cue (zeros later), and 1 when it is
    time to answer.
    """

    cues: int = 2
    delay: int = 3
    name: str = "toy/memory"

    def __post_init__(self):
        check_numbers(self, {"cues": 2, "delay": 1}, ())

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        sizes = (2, self.cues + 1, 2 * self.cues + 1, "discrete", self.cues, self.delay + 1)
        return EnvSpec(self.name, *sizes, "team", "share of agents that recall their cue", 1.0)

    def _observe(self, state: MemoryState) -> Observation:
        cue = jax.nn.one_hot(state.cue, self.cues, dtype=float)
        seen = jnp.where(state.time == 0, cue, 0.0)
        answer = jnp.full((2, 1), state.time == self.delay).astype(float)
        whole = jnp.append(cue.reshape(-1), state.time / self.delay)
        mask = jnp.ones((2, self.cues), bool)
        return Observation(jnp.concatenate([seen, answer], -1), whole, mask, jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[MemoryState, TimeStep]:
        """Begin with fresh cues."""
        state = MemoryState(
            jax.random.randint(key, (2,), 0, self.cues, jnp.int32), jnp.zeros((), jnp.int32)
        )
        return state, make_timestep(self._observe(state))

    def step(self, state: MemoryState, action: Array) -> tuple[MemoryState, TimeStep]:
        """Wait, or at the last step answer: action ``[2]`` int."""
        over = state.time == self.delay
        reward = jnp.where(over, (action == state.cue).astype(float).mean(), 0.0)
        state = state._replace(time=state.time + 1)
        return state, make_timestep(self._observe(state), reward, over)


class CounterState(NamedTuple):
    """The count and the steps taken, [] int each."""

    count: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Counter:
    """Counts up when both agents choose 1; the goal truly ends the episode, the time limit cuts it
    off; best return 1.

    The team receives 1 on reaching the goal. When both happen at the same step, the episode is
    truly over. View and state: the count over the goal.
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
        """Sizes and meanings."""
        return EnvSpec(
            self.name, 2, 1, 1, "discrete", 2, self.limit, "team", "1 when the goal is reached", 1.0
        )

    def _observe(self, state: CounterState) -> Observation:
        share = state.count / self.goal
        view = jnp.broadcast_to(share, (2, 1))
        return Observation(view, share[None], jnp.ones((2, 2), bool), jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[CounterState, TimeStep]:
        """Begin at 0."""
        state = CounterState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: CounterState, action: Array) -> tuple[CounterState, TimeStep]:
        """Count, or wait: action ``[2]`` int."""
        state = CounterState(state.count + (action == 1).all().astype(jnp.int32), state.time + 1)
        over = state.count >= self.goal
        return state, make_timestep(
            self._observe(state), over.astype(float), over, last=state.time >= self.limit
        )
