"""Baselines of one agent that know what the others do, for discrete actions."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.types import Array


def counterfactual_baseline(q: Array, probs: Array) -> Array:
    """COMA's baseline (Foerster et al. 2018, equation 4): the mean of an agent's Q over its own
    actions.

        b_i(s, u_-i) = Σ_u π_i(u|o_i) Q_i(s, (u_-i, u))

    Args:
        q: ``[..., A]`` Q of each own action, the others' being what they were.
        probs: ``[..., A]`` the policy, 0 where an action is illegal.

    Returns:
        ``[...]``, in the unit of q.
    """
    chex.assert_equal_shape([q, probs])
    return (probs * q).sum(-1)


def optimal_baseline(q: Array, probs: Array) -> Array:
    """The baseline of least variance (Kuba et al. 2021, "Settling the variance of multi-agent
    policy gradients").

        b_i = Σ_u w(u) Q_i(s, (u_-i, u)) / Σ_u w(u)
        w(u) = π_i(u) ||∇_ψ log π_i(u)||² = π_i(u) (1 + ||π_i||² - 2 π_i(u))

    with ψ the logits: their surrogate for the gradient by all weights. Where the policy is certain
    every weight is 0, and so is its gradient: the answer is then COMA's baseline.

    Args:
        q: ``[..., A]`` Q of each own action.
        probs: ``[..., A]`` the policy.

    Returns:
        ``[...]``, in the unit of q.
    """
    chex.assert_equal_shape([q, probs])
    weight = probs * (1.0 + (probs**2).sum(-1, keepdims=True) - 2.0 * probs)
    total = weight.sum(-1, keepdims=True)
    certain = total < 1e-6
    weight = jnp.where(certain, probs, weight / jnp.where(certain, 1.0, total))
    return (weight * q).sum(-1)
