"""Means and spreads: over the agents that live, and running over a whole training."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxmarl_lite.types import Array


def masked_mean(x: Array, weight: Array, axis: tuple[int, ...] | None = None) -> Array:
    """Mean of ``x`` over the entries whose ``weight`` (0/1, same shape) is one; 0 where there are
    none.
    """
    chex.assert_equal_shape([x, weight])
    weight = weight.astype(x.dtype)
    return _weighted(x, weight).sum(axis) / jnp.maximum(weight.sum(axis), 1.0)


def _weighted(x: Array, weight: Array) -> Array:
    """``x * weight``, and 0 where the weight is, whatever ``x`` is there."""
    return jnp.where(weight > 0, x, 0.0) * weight


def standardize(x: Array, weight: Array, axis: tuple[int, ...] | None = None) -> Array:
    """Shifts ``x`` to mean 0 and scales it to deviation 1 over the living entries along ``axis``.

    The deviation is enlarged by the rounding error of the numbers, a few units in the last place of
    their root mean square, and by nothing else: ``x`` in any unit gives the same result, and a
    constant, whose differences are rounding errors, gives nearly 0. The derivative exists
    everywhere.

    Args:
        x: ``[...]`` float.
        weight: 0 or 1, of the shape of ``x``; entries of weight 0 count for neither mean nor
            deviation.
        axis: axes of one mean and deviation; all when None.

    Returns:
        An array of the shape of ``x``.
    """
    chex.assert_equal_shape([x, weight])
    weight = weight.astype(x.dtype)
    count = jnp.maximum(weight.sum(axis, keepdims=True), 1.0)
    mean = _weighted(x, weight).sum(axis, keepdims=True) / count
    centred = x - mean
    variance = _weighted(centred**2, weight).sum(axis, keepdims=True) / count
    enlarged = _root(variance) + _rounding(x) * _root(variance + mean**2)
    return centred / jnp.where(enlarged > 0, enlarged, 1.0)


def _root(x: Array) -> Array:
    """The square root, with derivative 0 instead of infinity at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _rounding(x: Array) -> float:
    """A few units in the last place of 1."""
    return 8.0 * float(jnp.finfo(x.dtype).eps)


class RunningStatistics(NamedTuple):
    """Count, mean and mean squared deviation of everything seen so far."""

    count: Array  # []
    mean: Array  # [...]
    variance: Array  # [...]


def init_running_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Moments of nothing yet: mean 0 and variance 1, so that normalising changes nothing."""
    dtype = jnp.result_type(float)
    return RunningStatistics(jnp.zeros((), dtype), jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def update_running_statistics(
    moments: RunningStatistics, x: Array, weight: Array | None = None
) -> RunningStatistics:
    """Merge a batch into the running moments (Chan et al. 1979); all axes of ``x`` before theirs
    are samples.

    ``weight``, of the samples' axes, leaves out those where it is zero.
    """
    lead = tuple(range(x.ndim - moments.mean.ndim))
    samples = x.shape[: len(lead)]
    weight = jnp.ones(samples) if weight is None else weight
    chex.assert_shape(weight, samples)
    number = weight.astype(moments.mean.dtype).sum()
    weight = jnp.broadcast_to(jnp.expand_dims(weight, tuple(range(len(lead), x.ndim))), x.shape)
    mean = masked_mean(x, weight, lead)
    variance = masked_mean((x - jnp.broadcast_to(mean, x.shape)) ** 2, weight, lead)
    total = moments.count + number
    delta = mean - moments.mean
    share = number / jnp.maximum(total, 1.0)
    spread = (
        (1.0 - share) * moments.variance * (moments.count > 0)
        + share * variance
        + share * (1 - share) * delta**2
    )
    return RunningStatistics(
        total, moments.mean + share * delta, jnp.where(total > 0, spread, moments.variance)
    )


def normalize(moments: RunningStatistics, x: Array) -> Array:
    """``(x - mean) / deviation``; the deviation of a constant is a few units in the last place of
    it, of zeros 1e-3.
    """
    mean, deviation = _mean_and_deviation(moments, x)
    return (x - mean) / deviation


def denormalize(moments: RunningStatistics, x: Array) -> Array:
    """The inverse of `normalize`."""
    mean, deviation = _mean_and_deviation(moments, x)
    return x * deviation + mean


def _mean_and_deviation(moments: RunningStatistics, x: Array) -> tuple[Array, Array]:
    deviation = jnp.sqrt(moments.variance) + _rounding(x) * jnp.abs(moments.mean)
    deviation = jnp.where(deviation > 0, deviation, 1e-3)
    return jnp.broadcast_to(moments.mean, x.shape), jnp.broadcast_to(deviation, x.shape)
