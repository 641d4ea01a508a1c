"""Means, variances and standardization: over masked entries, and running over a whole training.

The mask is mostly that of the agents that are alive.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import Array


def masked_mean(
    x: Array, weight: Array, axis: tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Computes the mean over the entries of weight one; 0 where there are none.

    Args:
        x: ``[...]`` float. Entries of weight 0 may be anything, infinite or NaN included.
        weight: 0 or 1 (or bool), of the leading axes of ``x``; it counts for all of the others.
        axis: axes of the mean; all when None.
        keepdims: whether these axes stay, with size 1.

    Returns:
        The mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import running_statistics
        >>> x = jnp.array([1.0, 2.0, jnp.nan])
        >>> print(running_statistics.masked_mean(x, jnp.array([True, True, False])))
        1.5
    """
    chex.assert_shape(weight, x.shape[: weight.ndim])
    weight = jnp.expand_dims(weight, tuple(range(weight.ndim, x.ndim)))
    weight = jnp.broadcast_to(weight, x.shape).astype(x.dtype)
    total = (jnp.where(weight > 0, x, 0.0) * weight).sum(axis, keepdims=keepdims)
    return total / jnp.maximum(weight.sum(axis, keepdims=keepdims), 1.0)


def standardize(x: Array, weight: Array, axis: tuple[int, ...] | None = None) -> Array:
    """Shifts ``x`` to mean 0 and scales it to deviation 1 over the entries of weight one.

    The deviation is enlarged by the rounding error of the numbers, a few units in the last place of
    their root mean square, and by nothing else: ``x`` in any unit gives the same result, and a
    constant, whose differences are rounding errors, gives nearly 0. The derivative exists
    everywhere.

    Args:
        x: ``[...]`` float.
        weight: 0 or 1 (or bool), of the leading axes of ``x``; entries of weight 0 count for
            neither mean nor deviation.
        axis: axes of one mean and deviation; all when None.

    Returns:
        An array of the shape of ``x``; entries of weight 0 are shifted and scaled with the rest.

    Example:
        Mean 2 and deviation 1 of the first two entries:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import running_statistics
        >>> x = jnp.array([1.0, 3.0, 7.0])
        >>> print(running_statistics.standardize(x, jnp.array([1, 1, 0])).round())
        [-1.  1.  5.]
    """
    mean = masked_mean(x, weight, axis, keepdims=True)
    centred = x - mean
    variance = masked_mean(centred**2, weight, axis, keepdims=True)
    # The root mean square, √(variance + mean²), sets the size of the rounding errors in `centred`.
    enlarged = _root(variance) + _rounding(x) * _root(variance + mean**2)
    return centred / jnp.where(enlarged > 0, enlarged, 1.0)


def _root(x: Array) -> Array:
    """Returns the square root, with derivative 0 instead of infinity at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _rounding(x: Array) -> float:
    """Returns a few units in the last place of 1, in the precision of ``x``."""
    return 8.0 * float(np.finfo(x.dtype).eps)


class RunningStatistics(NamedTuple):
    """Count, mean and mean squared deviation of all samples so far.

    Attributes:
        count: ``[]`` number of samples.
        mean: ``[...]`` their mean.
        variance: ``[...]`` their mean squared deviation from it.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Array
    variance: Array


def init_running_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Returns the statistics of no samples: mean 0 and variance 1, which normalize nothing.

    Args:
        shape: shape of one sample.

    Returns:
        `RunningStatistics` with count 0, mean 0 and variance 1.

    Example:
        >>> from jaxmarl_lite.ops import running_statistics
        >>> statistics = running_statistics.init_running_statistics((2,))
        >>> print(statistics.count, statistics.mean, statistics.variance)
        0.0 [0. 0.] [1. 1.]
    """
    dtype = jnp.result_type(float)
    return RunningStatistics(jnp.zeros((), dtype), jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def update_running_statistics(
    statistics: RunningStatistics, x: Array, weight: Array | None = None
) -> RunningStatistics:
    """Merges a batch of samples into running statistics (Chan et al. 1979).

    Args:
        statistics: the statistics so far, of samples ``[...]``.
        x: ``[samples' axes, ...]``: every axis in front of those of ``statistics.mean`` counts
            samples.
        weight: 0 or 1 (or bool), of the samples' axes: samples of weight 0 are left out. None
            counts all.

    Returns:
        `RunningStatistics` of the earlier samples and the batch.

    Example:
        Mean and variance of 0, 2, 4 and 6, in two batches:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import running_statistics
        >>> statistics = running_statistics.init_running_statistics(())
        >>> for batch in ([0.0, 2.0], [4.0, 6.0]):
        ...     statistics = running_statistics.update_running_statistics(
        ...         statistics, jnp.array(batch)
        ...     )
        >>> print(statistics.count, statistics.mean, statistics.variance)
        4.0 3.0 5.0
    """
    sample_axes = tuple(range(x.ndim - statistics.mean.ndim))
    sample_shape = x.shape[: len(sample_axes)]
    weight = jnp.ones(sample_shape) if weight is None else weight
    chex.assert_shape(weight, sample_shape)
    batch_count = weight.astype(statistics.mean.dtype).sum()
    batch_mean = masked_mean(x, weight, sample_axes)
    batch_variance = masked_mean(
        (x - jnp.broadcast_to(batch_mean, x.shape)) ** 2, weight, sample_axes
    )
    count = statistics.count + batch_count
    delta = batch_mean - statistics.mean
    share = batch_count / jnp.maximum(count, 1.0)
    # The variance of 1 that `init_running_statistics` gives is no sample's: count 0 drops it.
    variance = (
        (1.0 - share) * statistics.variance * (statistics.count > 0)
        + share * batch_variance
        + share * (1 - share) * delta**2
    )
    return RunningStatistics(
        count,
        statistics.mean + share * delta,
        jnp.where(count > 0, variance, statistics.variance),
    )


def normalize(statistics: RunningStatistics, x: Array) -> Array:
    """Computes ``(x - mean) / deviation``.

    The deviation of a constant is a few units in the last place of it, and of zeros 1e-3, so that
    nothing is divided by 0.

    Args:
        statistics: running statistics of samples ``[...]``.
        x: samples, any axes in front of those of ``statistics.mean``.

    Returns:
        An array of the shape of ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import running_statistics
        >>> statistics = running_statistics.RunningStatistics(
        ...     count=jnp.array(9.0), mean=jnp.array(3.0), variance=jnp.array(4.0)
        ... )
        >>> print(running_statistics.normalize(statistics, jnp.array([3.0, 7.0])).round())
        [0. 2.]
    """
    mean, deviation = _mean_and_deviation(statistics, x)
    return (x - mean) / deviation


def denormalize(statistics: RunningStatistics, x: Array) -> Array:
    """Computes ``x * deviation + mean``, the inverse of `normalize`.

    Args:
        statistics: running statistics of samples ``[...]``.
        x: normalized samples, any axes in front of those of ``statistics.mean``.

    Returns:
        An array of the shape of ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import running_statistics
        >>> statistics = running_statistics.RunningStatistics(
        ...     count=jnp.array(9.0), mean=jnp.array(3.0), variance=jnp.array(4.0)
        ... )
        >>> print(running_statistics.denormalize(statistics, jnp.array([0.0, 2.0])).round())
        [3. 7.]
    """
    mean, deviation = _mean_and_deviation(statistics, x)
    return x * deviation + mean


def _mean_and_deviation(statistics: RunningStatistics, x: Array) -> tuple[Array, Array]:
    """Returns mean and deviation, broadcast to the shape of ``x``; the deviation is positive."""
    deviation = jnp.sqrt(statistics.variance) + _rounding(x) * jnp.abs(statistics.mean)
    deviation = jnp.where(deviation > 0, deviation, 1e-3)
    return jnp.broadcast_to(statistics.mean, x.shape), jnp.broadcast_to(deviation, x.shape)
