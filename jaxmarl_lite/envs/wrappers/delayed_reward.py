"""Any environment with its reward paid in one sum when the episode ends: ``delayed/<name>``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Environment, EnvSpec, PyTree, TimeStep


class DelayedRewardState(NamedTuple):
    """The state of a delayed-reward episode.

    Attributes:
        inner: the inner environment's state.
        pending_reward: ``[N]``, the reward owed to each agent.
    """

    inner: PyTree
    pending_reward: Array


@dataclasses.dataclass(frozen=True)
class DelayedRewardWrapper:
    """An environment that pays each agent the sum of an episode's rewards at its last step.

    Returns, ends and costs do not change. The reward owed so far, N numbers, is added to the state
    that a central critic sees, but not to the agents' observations. ``animate``,
    ``is_non_finite``, ``is_win`` and ``unwrapped`` are the inner environment's.

    Attributes:
        env: the inner environment.
    """

    env: Environment

    def __getattr__(self, name: str) -> Any:
        forwarded = {
            "animate": self._forward_animate,
            "is_non_finite": self._forward_flag,
            "is_win": self._forward_flag,
            "unwrapped": getattr,
        }
        forward = forwarded.get(name)
        if forward is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return forward(self.env, name)

    @staticmethod
    def _forward_flag(env: Environment, name: str) -> Callable[[DelayedRewardState], Array]:
        """Returns the inner method ``is_non_finite`` or ``is_win``, for this wrapper's states."""
        return lambda state: getattr(env, name)(state.inner)

    @staticmethod
    def _forward_animate(env: Environment, name: str) -> Callable[..., Any]:
        """Returns the inner method ``animate``, for this wrapper's states."""
        animate_inner = getattr(env, name)

        @functools.wraps(animate_inner)
        def animate(states: Sequence[DelayedRewardState], *args: Any, **keywords: Any) -> Any:
            return animate_inner([state.inner for state in states], *args, **keywords)

        return animate

    @property
    def spec(self) -> EnvSpec:
        """The inner environment's spec, with N more entries of the central critic's state."""
        inner_spec = self.env.spec
        return dataclasses.replace(
            inner_spec,
            name=f"delayed/{inner_spec.name}",
            global_state_size=inner_spec.global_state_size + inner_spec.num_agents,
        )

    def reset(self, key: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Begins an episode; no reward is owed.

        Args:
            key: typed random key.

        Returns:
            The state and the first time step.
        """
        inner, timestep = self.env.reset(key)
        state = DelayedRewardState(inner, jnp.zeros_like(timestep.reward))
        return state, self._append_pending(state, timestep)

    def step(self, state: DelayedRewardState, action: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Takes one joint action; the reward is 0 until the last step, which pays the sum.

        Args:
            state: the state of the episode.
            action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.

        Returns:
            The next state and the time step.
        """
        inner, timestep = self.env.step(state.inner, action)
        owed = state.pending_reward + timestep.reward
        paid = jnp.where(timestep.last, owed, 0.0)
        # a debt still visible after a time limit would be bootstrapped from, and grow without bound
        state = DelayedRewardState(inner, owed - paid)
        return state, self._append_pending(state, timestep._replace(reward=paid))

    def _append_pending(self, state: DelayedRewardState, timestep: TimeStep) -> TimeStep:
        """Appends the reward owed to the central critic's state."""
        global_state = jnp.concatenate(
            [
                timestep.obs.global_state,
                state.pending_reward.astype(timestep.obs.global_state.dtype),
            ]
        )
        return timestep._replace(obs=timestep.obs._replace(global_state=global_state))
