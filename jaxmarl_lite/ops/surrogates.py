"""Surrogate objectives of policy-gradient methods; all are to be maximised and none is averaged
yet.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.ops.running_statistics import masked_mean
from jaxmarl_lite.types import Array, Number


def importance_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """ρ = π(u|s) / π_old(u|s), from two log-probabilities of one shape."""
    chex.assert_equal_shape([log_prob, old_log_prob])
    return jnp.exp(log_prob - old_log_prob)


def clipped_surrogate(ratio: Array, advantage: Array, clip_eps: Number) -> Array:
    """PPO's pessimistic surrogate, min(ρ A, clip(ρ, 1-ε, 1+ε) A) (Schulman et al. 2017, equation
    7).

    At ρ = 1 its gradient is A ∇log π: the plain policy gradient.
    """
    chex.assert_equal_shape([ratio, advantage])
    return jnp.minimum(
        ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage
    )


def approximate_kl(log_ratio: Array) -> Array:
    """Per-sample estimate of KL(π_old || π) in nats: (ρ - 1) - log ρ, never negative (Schulman
    2020).
    """
    return jnp.expm1(log_ratio) - log_ratio


def explained_variance(prediction: Array, target: Array, weight: Array) -> Array:
    """1 - Var(target - prediction) / Var(target) over the entries whose ``weight`` is one. Scalar.

    1 is perfect, 0 is no better than the mean; 0 as well where the target does not vary.
    """
    chex.assert_equal_shape([prediction, target, weight])

    def variance(x: Array) -> Array:
        return masked_mean((x - masked_mean(x, weight)) ** 2, weight)

    spread = variance(target)
    return jnp.where(
        spread > 0, 1.0 - variance(target - prediction) / jnp.where(spread > 0, spread, 1.0), 0.0
    )
