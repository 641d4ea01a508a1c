"""Any environment with its reward paid in one sum when the episode ends: ``delayed/<name>``."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.types import Array, EnvSpec, TimeStep


class DelayedRewardState(NamedTuple):
    """The inner environment's state, and what is owed to each agent, ``[N]``."""

    inner: Any
    pending_reward: Array


@dataclasses.dataclass(frozen=True)
class DelayedRewardWrapper:
    """An environment whose agents are paid at an episode's last step alone, the sum of all its
    rewards.

    Returns, ends and costs are as they were. What is owed so far is added to the state that a
    central critic sees, N numbers, and not to the views. ``animate``, ``is_non_finite``, ``is_win``
    and ``unwrapped`` are the inner environment's.
    """

    env: Any

    def __getattr__(self, name: str) -> Any:
        forwarded = {
            "animate": self._animate,
            "is_non_finite": self._told,
            "is_win": self._told,
            "unwrapped": getattr,
        }
        inner = forwarded.get(name)
        if inner is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inner(self.env, name)

    @staticmethod
    def _told(env: Any, name: str) -> Any:
        return lambda state: getattr(env, name)(state.inner)

    @staticmethod
    def _animate(env: Any, name: str) -> Any:
        film = env.animate

        @functools.wraps(film)
        def animate(states: Any, *args: Any, **keywords: Any) -> Any:
            return film([state.inner for state in states], *args, **keywords)

        return animate

    @property
    def spec(self) -> EnvSpec:
        """The inner environment's, with a longer state."""
        inner = self.env.spec
        return dataclasses.replace(
            inner,
            name=f"delayed/{inner.name}",
            global_state_size=inner.global_state_size + inner.num_agents,
        )

    def reset(self, key: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Begin an episode; nothing is owed."""
        inner, timestep = self.env.reset(key)
        state = DelayedRewardState(inner, jnp.zeros_like(timestep.reward))
        return state, self._seen(state, timestep)

    def step(self, state: DelayedRewardState, action: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Take one joint action of the inner environment."""
        inner, timestep = self.env.step(state.inner, action)
        owed = state.pending_reward + timestep.reward
        paid = jnp.where(timestep.last, owed, 0.0)
        # a debt still seen after a time limit would be bootstrapped from, and grow without bound
        state = DelayedRewardState(inner, owed - paid)
        return state, self._seen(state, timestep._replace(reward=paid))

    def _seen(self, state: DelayedRewardState, timestep: TimeStep) -> TimeStep:
        whole = jnp.concatenate(
            [
                timestep.obs.global_state,
                state.pending_reward.astype(timestep.obs.global_state.dtype),
            ]
        )
        return timestep._replace(obs=timestep.obs._replace(global_state=whole))
