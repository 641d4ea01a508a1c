"""Baselines of one agent's policy gradient, given the others' actions; for discrete actions."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.types import Array


def counterfactual_baseline(q: Array, probs: Array) -> Array:
    """Computes COMA's counterfactual baseline, the mean of an agent's Q over its actions.

    Foerster et al. 2018, equation 4:

        b_i(s, u_-i) = Σ_u π_i(u|o_i) Q_i(s, (u_-i, u))

    Args:
        q: ``[..., A]`` Q of each action of the agent, with the other agents' actions fixed.
        probs: ``[..., A]`` probabilities of the agent's policy, 0 where an action is illegal.

    Returns:
        ``[...]`` the baseline, in the unit of ``q``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import baselines
        >>> q = jnp.array([1.0, 2.0, 4.0])
        >>> probs = jnp.array([0.5, 0.25, 0.25])
        >>> print(baselines.counterfactual_baseline(q, probs))  # 0.5 + 0.5 + 1
        2.0
    """
    chex.assert_equal_shape([q, probs])
    return (probs * q).sum(-1)


def optimal_baseline(q: Array, probs: Array) -> Array:
    """Computes the baseline that gives the policy gradient the least variance.

    Kuba et al. 2021, "Settling the variance of multi-agent policy gradients":

        b_i = Σ_u w(u) Q_i(s, (u_-i, u)) / Σ_u w(u)
        w(u) = π_i(u) ||∇_ψ log π_i(u)||² = π_i(u) (1 + ||π_i||² - 2 π_i(u))

    with ψ the logits: the paper's surrogate for the gradient by all weights of the network. Where
    the policy is certain, every weight w(u) is 0, and so is the gradient of the policy: the result
    is then `counterfactual_baseline`.

    Args:
        q: ``[..., A]`` Q of each action of the agent, with the other agents' actions fixed.
        probs: ``[..., A]`` probabilities of the agent's policy, 0 where an action is illegal.

    Returns:
        ``[...]`` the baseline, in the unit of ``q``.

    Example:
        Here ``||π||² = 0.375``, so the weights w are ``0.1875, 0.21875, 0.21875``, which are in the
        ratio ``0.3 : 0.35 : 0.35``.

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import baselines
        >>> q = jnp.array([1.0, 2.0, 4.0])
        >>> probs = jnp.array([0.5, 0.25, 0.25])
        >>> print(f"{baselines.optimal_baseline(q, probs):.3f}")  # 0.3 · 1 + 0.35 · 2 + 0.35 · 4
        2.400
    """
    chex.assert_equal_shape([q, probs])
    weight = probs * (1.0 + (probs**2).sum(-1, keepdims=True) - 2.0 * probs)
    total = weight.sum(-1, keepdims=True)
    # The weights of a certain policy sum to 0; the policy itself takes their place.
    certain = total < 1e-6
    weight = jnp.where(certain, probs, weight / jnp.where(certain, 1.0, total))
    return (weight * q).sum(-1)
