"""Surrogate objectives and diagnostics of policy-gradient methods.

The surrogate is to be maximized. `explained_variance` alone averages; the others give one number
for each sample.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.ops.running_statistics import masked_mean
from jaxmarl_lite.types import Array, Number


def importance_ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """Computes the importance ratio ρ = π(u|s) / π_old(u|s) from two log-probabilities.

    Args:
        log_prob: ``[...]`` log π(u|s), in nats.
        old_log_prob: ``[...]`` log π_old(u|s), in nats, of the same shape.

    Returns:
        ``[...]`` ρ > 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import surrogates
        >>> log_prob, old_log_prob = jnp.log(jnp.array([0.6, 0.4]))
        >>> print(f"{surrogates.importance_ratio(log_prob, old_log_prob):.3f}")  # 0.6 / 0.4
        1.500
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    return jnp.exp(log_prob - old_log_prob)


def clipped_surrogate(ratio: Array, advantage: Array, clip_eps: Number) -> Array:
    """Computes PPO's pessimistic surrogate of every sample, which is to be maximized.

    Schulman et al. 2017, equation 7, before the mean:

        min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)

    At ρ = 1 its gradient is A ∇log π: the plain policy gradient.

    Args:
        ratio: ``[...]`` ρ, the importance ratio.
        advantage: ``[...]`` A, of the same shape.
        clip_eps: ε > 0, the half-width of the interval to which the ratio is clipped.

    Returns:
        ``[...]`` the surrogate, in the unit of the advantage.

    Example:
        The clip bounds the gain of a large step, never its loss:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import surrogates
        >>> ratio = jnp.array([1.5, 1.5, 0.5, 0.5])
        >>> advantage = jnp.array([1.0, -1.0, 1.0, -1.0])
        >>> print(surrogates.clipped_surrogate(ratio, advantage, clip_eps=0.25))
        [ 1.25 -1.5   0.5  -0.75]
    """
    chex.assert_equal_shape([ratio, advantage])
    return jnp.minimum(
        ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage
    )


def approximate_kl(log_ratio: Array) -> Array:
    """Computes the estimate (ρ - 1) - log ρ of KL(π_old || π) from every sample (Schulman 2020).

    The samples are actions of π_old. The estimate is never negative.

    Args:
        log_ratio: ``[...]`` log ρ = log π(u|s) - log π_old(u|s), in nats.

    Returns:
        ``[...]`` the estimate, in nats.

    Example:
        For ρ = 2 it is 1 - log 2:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import surrogates
        >>> print(f"{surrogates.approximate_kl(jnp.log(2.0)):.4f}")
        0.3069
    """
    return jnp.expm1(log_ratio) - log_ratio


def explained_variance(prediction: Array, target: Array, weight: Array) -> Array:
    """Computes the share of the target's variance that a prediction explains.

    It is ``1 - Var(target - prediction) / Var(target)`` over the entries of weight one: 1 is
    perfect, 0 is no better than the mean; 0 as well where the target does not vary.

    Args:
        prediction: ``[...]`` float.
        target: ``[...]`` float, of the same shape and unit.
        weight: 0 or 1 (or bool), of the leading axes of the prediction.

    Returns:
        A scalar, at most 1.

    Example:
        The target's variance is 1, and that of the errors, 0 and 1, is 0.25:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import surrogates
        >>> prediction, target = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])
        >>> print(surrogates.explained_variance(prediction, target, jnp.ones(2)))
        0.75
    """
    chex.assert_equal_shape([prediction, target])

    def variance(x: Array) -> Array:
        return masked_mean((x - masked_mean(x, weight)) ** 2, weight)

    spread = variance(target)
    return jnp.where(
        spread > 0, 1.0 - variance(target - prediction) / jnp.where(spread > 0, spread, 1.0), 0.0
    )
