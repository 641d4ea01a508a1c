"""Two agents, one whose choice shows in the reward at once, one whose choice shows long after."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.toys.timestep import check_numbers, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep


class RelayState(NamedTuple):
    """State of `Relay`.

    Attributes:
        target: Right action of each agent, ``[2]`` int.
        is_correct: Whether the first agent chose it, [] bool.
        time: Number of steps taken, [] int.
        key: Typed key of later draws.
    """

    target: Array
    is_correct: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class Relay:
    """The first agent chooses once and is paid at the end; the second is paid at every step.

    At the first step the first agent sees its right action; the team receives ``delayed_reward``
    for it at the last step. Then it has action 0 left, and is out of play. The second agent sees a
    new right action at every step, and the team receives ``immediate_reward`` for each that it
    chooses. After ``steps`` steps the episode is truly over. The observation is the one-hot right
    action, and 1 for the second agent.

    Attributes:
        choices: Number of actions, at least 2.
        steps: Steps of an episode, at least 2.
        delayed_reward: Reward for the first agent's choice.
        immediate_reward: Reward for each choice of the second agent.
        name: Name of the environment.
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
        """Sizes and meanings of the environment."""
        best_return = self.delayed_reward + self.immediate_reward * self.steps
        meaning = (
            f"{self.immediate_reward:g} for each right action, and {self.delayed_reward:g} for "
            "the first choice"
        )
        sizes = (2, self.choices + 1, 2 * self.choices + 2, "discrete", self.choices, self.steps)
        return EnvSpec(self.name, *sizes, "team", meaning, best_return)

    def _observe(self, state: RelayState) -> Observation:
        """Returns the observation; the first agent sees its right action at time 0 only."""
        alive = jnp.stack([state.time == 0, jnp.ones((), bool)])
        target = jax.nn.one_hot(state.target, self.choices, dtype=float) * alive[:, None]
        view = jnp.concatenate([target, jnp.array([[0.0], [1.0]], target.dtype)], -1)
        global_state = jnp.append(
            target.reshape(-1), jnp.stack([state.is_correct.astype(float), state.time / self.steps])
        )
        mask = jnp.where(alive[:, None], True, jnp.arange(self.choices)[None] == 0)
        return Observation(view, global_state, mask, alive)

    def _draw(self, key: Array, is_correct: Array, time: Array) -> RelayState:
        """Returns a state with freshly drawn right actions."""
        key, draw_key = jax.random.split(key)
        return RelayState(
            jax.random.randint(draw_key, (2,), 0, self.choices, jnp.int32), is_correct, time, key
        )

    def reset(self, key: Array) -> tuple[RelayState, TimeStep]:
        """Begins an episode with fresh right actions.

        Args:
            key: Typed key of all draws of the episode.

        Returns:
            ``(state, timestep)``: right actions, whether the first agent was right, time and
            key, and the first time step.
        """
        state = self._draw(key, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: RelayState, action: Array) -> tuple[RelayState, TimeStep]:
        """Compares the choices with the right actions, and draws new ones.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        is_met = action == state.target
        is_correct = jnp.where(state.time == 0, is_met[0], state.is_correct)
        time = state.time + 1
        terminated = time >= self.steps
        reward = self.immediate_reward * is_met[1] + self.delayed_reward * (terminated & is_correct)
        state = self._draw(state.key, is_correct, time)
        return state, make_timestep(self._observe(state), reward, terminated)
