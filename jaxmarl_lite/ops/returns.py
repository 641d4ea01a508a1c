"""Returns and advantages along a rollout, with true ends and time limits kept apart.

Time is the leading axis of every argument. ``discount`` is the environment's (0 where the episode
is truly over), ``last`` marks the final step of an episode whether it is over or was cut off, and
``next_value`` is the value of the true successor, before any reset.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, Number


def generalized_advantage_estimation(
    reward: Array,
    value: Array,
    next_value: Array,
    discount: Array,
    last: Array,
    gamma: Number,
    gae_lambda: Number,
) -> Array:
    """Generalised advantage estimate (Schulman et al. 2016, equation 16).

        δ_t = r_t + γ d_t V(s'_t) - V(s_t)
        A_t = δ_t + γ λ (1 - last_t) A_{t+1}

    An episode cut off by a time limit has ``d_t = 1`` and ``last_t = 1``: its value is still looked
    up, but nothing flows back from the episode after it.

    Args:
        reward, value, next_value: ``[T, ...]`` float.
        discount, last: ``[T, ...]`` of the same rank, 0/1 and bool; axes of size 1 broadcast.
        gamma, gae_lambda: the discount γ and the mixing λ, both in [0, 1].

    Returns:
        ``[T, ...]``, in the unit of the reward. Linear in ``reward`` and differentiable through it.
    """
    chex.assert_equal_shape([reward, value, next_value])
    chex.assert_equal_rank([reward, discount, last])
    chex.assert_type([reward, value, next_value], float)
    delta = reward + gamma * discount * next_value - value
    carry = gamma * gae_lambda * (1.0 - last) * jnp.ones_like(delta)

    def back(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, carry_t = step
        advantage = delta_t + carry_t * advantage
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, carry), reverse=True)[1]
