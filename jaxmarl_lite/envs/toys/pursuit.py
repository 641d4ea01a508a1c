"""Agents and a target on a line."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.toys.timestep import check_numbers, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep


class PursuitState(NamedTuple):
    """State of `Pursuit`.

    Attributes:
        offset: Target's position less each agent's, ``[N]`` int.
        time: Number of steps taken, [] int.
    """

    offset: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Pursuit:
    """All agents must come to a target that stands still; LIIR's first study (Du et al. 2019).

    The actions are -1, 0 and +1 along a line. The team receives ``approach_reward`` for a step in
    which all agents approach the target, or wait on it, and minus ``approach_reward`` for every
    other, and ``catch_reward`` when all are on the target, which ends the episode; a time limit
    cuts it off. An agent's own action shows in the reward only through the actions of the others.
    The paper describes the game of two in words; the numbers are ours. The observation is the
    agent's own offset of the target over ``reach``.

    Attributes:
        agents: N, the number of agents.
        reach: Largest distance, at which an agent cannot go on; agents start at 1 to ``reach``, on
            either side.
        limit: Most steps of an episode, at least ``reach``.
        approach_reward: Reward of a step, as above.
        catch_reward: Reward of the catch, as above.
        name: Name of the environment.
    """

    agents: int = 2
    reach: int = 5
    limit: int = 20
    approach_reward: float = 0.01
    catch_reward: float = 1.0
    name: str = "toy/pursuit"

    def __post_init__(self):
        check_numbers(
            self, {"agents": 1, "reach": 1, "limit": 1}, ("approach_reward", "catch_reward")
        )
        if self.limit < self.reach:
            raise ValueError(
                f"{self.name}: limit is {self.limit}; allowed is reach, {self.reach}, or more"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        # the mean of the largest of N distances: the sum over d of P(it is at least d)
        longest = sum(1.0 - ((d - 1) / self.reach) ** self.agents for d in range(1, self.reach + 1))
        catch_meaning = f"{self.catch_reward:g} when the target is caught"
        meaning = (
            f"{catch_meaning}; {self.approach_reward:g} for a step of all towards it, else minus"
        )
        best_return = self.catch_reward + self.approach_reward * longest
        sizes = (self.agents, 1, self.agents, "discrete", 3, self.limit)
        return EnvSpec(
            self.name, *sizes, "team", meaning, best_return, action_names=("left", "stay", "right")
        )

    def _observe(self, state: PursuitState) -> Observation:
        """Returns the observation: offsets over ``reach``."""
        share = state.offset / self.reach
        exists = jnp.ones((self.agents, 3), bool)
        return Observation(share[:, None].astype(float), share.astype(float), exists, exists[:, 0])

    def reset(self, key: Array) -> tuple[PursuitState, TimeStep]:
        """Begins an episode with all agents away from the target.

        Args:
            key: Typed key of the offsets.

        Returns:
            ``(state, timestep)``: offsets and time, and the first time step.
        """
        distance_key, side_key = jax.random.split(key)
        distance = jax.random.randint(distance_key, (self.agents,), 1, self.reach + 1, jnp.int32)
        offset = jnp.where(
            jax.random.bernoulli(side_key, shape=(self.agents,)), distance, -distance
        )
        state = PursuitState(offset, jnp.zeros((), jnp.int32))
        return state, make_timestep(self._observe(state))

    def step(self, state: PursuitState, action: Array) -> tuple[PursuitState, TimeStep]:
        """Moves each agent by ``action - 1``.

        Args:
            state: State before the step.
            action: Actions ``[N]`` int, 0 to 2.

        Returns:
            ``(state, timestep)`` after the step.
        """
        offset = jnp.clip(state.offset - (action - 1), -self.reach, self.reach)
        is_closer = (jnp.abs(offset) < jnp.abs(state.offset)) | (
            (offset == 0) & (state.offset == 0)
        )
        terminated = (offset == 0).all()
        reward = (
            jnp.where(is_closer.all(), self.approach_reward, -self.approach_reward)
            + self.catch_reward * terminated
        )
        state = PursuitState(offset, state.time + 1)
        return state, make_timestep(
            self._observe(state), reward, terminated, last=state.time >= self.limit
        )
