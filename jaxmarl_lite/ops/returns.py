"""Advantages along a rollout, which keep true ends of episodes and time limits apart.

Time is the leading axis of every argument. ``discount`` is the environment's (0 where the episode
is truly over), ``last`` marks the final step of an episode whether it is over or was cut off, and
``next_value`` is the value of the true successor, before any reset.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxmarl_lite import platforms
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
    """Computes the generalized advantage estimate of every step.

    Schulman et al. 2016, equation 16:

        δ_t = r_t + γ d_t V(s'_t) - V(s_t)
        A_t = δ_t + γ λ (1 - last_t) A_{t+1}

    An episode that a time limit cut off has ``d_t = 1`` and ``last_t = 1``: the value of its
    successor still counts, but nothing flows back from the episode after it.

    Args:
        reward: ``[T, ...]`` float, r.
        value: ``[T, ...]`` float, V(s_t), in the unit of the reward.
        next_value: ``[T, ...]`` float, V(s'_t) of the true successor, before any reset.
        discount: ``[T, ...]`` of the same rank, d, 0 or 1: 0 where the episode is truly over. Axes
            of size 1 broadcast.
        last: ``[T, ...]`` of the same rank, bool: the final step of an episode. Axes of size 1
            broadcast.
        gamma: γ, the discount factor, in [0, 1].
        gae_lambda: λ, the mixing of n-step returns, in [0, 1].

    Returns:
        ``[T, ...]`` A, in the unit of the reward. It is linear in ``reward`` and differentiable
        through it.

    Example:
        A time limit cuts off the first episode at its second step, and the second episode truly
        ends at its only step. The δ are 1, 1 + 0.5 · 4 and 1:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import returns
        >>> advantage = returns.generalized_advantage_estimation(
        ...     reward=jnp.array([1.0, 1.0, 1.0]),
        ...     value=jnp.array([0.0, 0.0, 0.0]),
        ...     next_value=jnp.array([0.0, 4.0, 4.0]),
        ...     discount=jnp.array([1.0, 1.0, 0.0]),
        ...     last=jnp.array([False, True, True]),
        ...     gamma=0.5,
        ...     gae_lambda=0.5,
        ... )
        >>> print(advantage)  # the first is 1 + 0.5 · 0.5 · 3
        [1.75 3.   1.  ]
    """
    chex.assert_equal_shape([reward, value, next_value])
    chex.assert_equal_rank([reward, discount, last])
    chex.assert_type([reward, value, next_value], float)
    delta = reward + gamma * discount * next_value - value
    # `discount` decides whether the successor's value counts, `last` whether its advantage does.
    carry = gamma * gae_lambda * (1.0 - last) * jnp.ones_like(delta)

    def step_back(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, carry_t = step
        advantage = delta_t + carry_t * advantage
        return advantage, advantage

    start = jnp.zeros_like(delta[0])
    return jax.lax.scan(
        step_back, start, (delta, carry), reverse=True, unroll=platforms.scan_unroll()
    )[1]
