"""One agent's part is seen in the reward at once, the other's long after."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.toys.timestep import check_numbers, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep


class RelayState(NamedTuple):
    """What each agent should choose, ``[2]`` int; whether the first did; the steps taken, [] int;
    the next key.
    """

    target: Array
    is_correct: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class Relay:
    """The first agent chooses once, and is paid for at the end; the second chooses and is paid for
    at every step.

    At the first step the first agent sees what it should choose; the team receives
    ``delayed_reward`` for it at the last step. Then it has action 0 left, and is out of play. The
    second agent sees a new wish at every step, and the team receives ``immediate_reward`` for each
    that it meets. After ``steps`` steps the episode is truly over. View: the one-hot wish, and 1
    for the second agent.
    """

    choices: int = 4
    steps: int = 16
    delayed_reward: float = 1.0
    immediate_reward: float = 0.25
    name: str = "toy/relay"

    def __post_init__(self):
        check_numbers(self, {"choices": 2, "steps": 2}, ("delayed_reward", "immediate_reward"))

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        best = self.delayed_reward + self.immediate_reward * self.steps
        meaning = (
            f"{self.immediate_reward:g} for each wish met, and {self.delayed_reward:g} for "
            "the first choice"
        )
        sizes = (2, self.choices + 1, 2 * self.choices + 2, "discrete", self.choices, self.steps)
        return EnvSpec(self.name, *sizes, "team", meaning, best)

    def _observe(self, state: RelayState) -> Observation:
        alive = jnp.stack([state.time == 0, jnp.ones((), bool)])
        wish = jax.nn.one_hot(state.target, self.choices, dtype=float) * alive[:, None]
        view = jnp.concatenate([wish, jnp.array([[0.0], [1.0]], wish.dtype)], -1)
        whole = jnp.append(
            wish.reshape(-1), jnp.stack([state.is_correct.astype(float), state.time / self.steps])
        )
        mask = jnp.where(alive[:, None], True, jnp.arange(self.choices)[None] == 0)
        return Observation(view, whole, mask, alive)

    def _drawn(self, key: Array, right: Array, time: Array) -> RelayState:
        key, now = jax.random.split(key)
        return RelayState(
            jax.random.randint(now, (2,), 0, self.choices, jnp.int32), right, time, key
        )

    def reset(self, key: Array) -> tuple[RelayState, TimeStep]:
        """Begin with fresh wishes."""
        state = self._drawn(key, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: RelayState, action: Array) -> tuple[RelayState, TimeStep]:
        """Choose: action ``[2]`` int."""
        met = action == state.target
        right = jnp.where(state.time == 0, met[0], state.is_correct)
        time = state.time + 1
        over = time >= self.steps
        reward = self.immediate_reward * met[1] + self.delayed_reward * (over & right)
        state = self._drawn(state.key, right, time)
        return state, make_timestep(self._observe(state), reward, over)
