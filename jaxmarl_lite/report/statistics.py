"""Statistics of a few seeds: interquartile mean, bootstrap intervals, probability of improvement.

Source: Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice", NeurIPS 2021 (arXiv:2108.13264), sections 4.1 to 4.3.

A diverged seed is a NaN. It is left out of every statistic here and counted beside it
(``Interval.count`` against ``Interval.seeds``), so that a report can say "4 of 5 seeds" instead of
hiding the fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxmarl_lite.validation import check_int, invalid

Statistic = Callable[..., Any]
"""``statistic(x, axis=...)``; ``axis`` is an int, or None for the whole array. It must leave NaNs
out."""

_MAX_NUMBERS_AT_ONCE = 4_000_000
"""Numbers that one batch of bootstrap draws may hold, which bounds the memory."""


class Interval(NamedTuple):
    """A statistic with its confidence interval.

    Every array field has the shape of the statistic.

    Attributes:
        estimate: The statistic of all values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: Number of finite or infinite values that entered: seeds that did not end as NaN.
        seeds: Number of values, NaN or not.
    """

    estimate: Any
    low: Any
    high: Any
    count: Any
    seeds: int

    @property
    def degenerate(self) -> bool:
        """Whether fewer than two values entered somewhere.

        Low and high then say nothing about the spread.
        """
        return bool(np.min(self.count) < 2)


def iqm(x: ArrayLike, axis: int | None = None) -> Any:
    """Computes the interquartile mean: the mean of the middle half of the values.

    With ``n`` values, the ``floor(n / 4)`` smallest and as many of the largest are dropped and the
    rest averaged: ``scipy.stats.trim_mean(x, 0.25)``, which the paper's reference implementation
    uses, so that numbers can be compared with published ones. (The other definition in use gives
    the values at the quartiles fractional weights; the two agree when n is divisible by 4.) Below
    four values nothing is dropped: the IQM of 3 seeds is their mean.

    NaNs are left out, and n counts the others.

    Args:
        x: Values, of any shape.
        axis: Axis to reduce; None pools everything, as the paper does with ``[tasks, seeds]``.

    Returns:
        The shape of ``x`` without ``axis``, in the unit of ``x``; NaN where no value is left.

    Example:
        The smallest and the largest of five values are dropped:

        >>> float(iqm([1.0, 2.0, 3.0, 4.0, 100.0]))
        3.0
    """
    x = np.asarray(x, dtype=np.float64)
    if axis is None:
        x, axis = x.reshape(-1), 0
    # NaNs sort to the end, so the cuts below count from the values that are left
    x = np.sort(np.moveaxis(x, axis, -1), axis=-1)
    count = np.sum(~np.isnan(x), axis=-1, keepdims=True)
    cut = count // 4
    position = np.arange(x.shape[-1])
    in_middle = (position >= cut) & (position < count - cut)
    total = np.sum(np.where(in_middle, x, 0.0), axis=-1)
    with np.errstate(invalid="ignore"):
        return (total / (count - 2 * cut)[..., 0])[()]


def mean(x: ArrayLike, axis: int | None = None) -> Any:
    """Computes the arithmetic mean over an axis, NaNs left out.

    Args:
        x: Values, of any shape.
        axis: Axis to reduce; None reduces all.

    Returns:
        The shape of ``x`` without ``axis``, in the unit of ``x``; NaN where no value is left.

    Example:
        >>> mean([[1.0, 3.0], [5.0, float("nan")]], axis=1)
        array([2., 5.])
    """
    x = np.asarray(x, dtype=np.float64)
    count = np.sum(~np.isnan(x), axis=axis)
    with np.errstate(invalid="ignore"):
        return (np.nansum(x, axis=axis) / count)[()]


def proportion_interval(successes: ArrayLike, count: int, confidence: float = 0.95) -> Interval:
    """Estimates a probability from independent trials, with Wilson's score interval.

    The estimate is the plain share; the interval stays inside [0, 1] and does not shrink to a point
    where all or no trials succeed: 20 of 20 give [0.84, 1]. Source: Wilson, "Probable Inference,
    the Law of Succession, and Statistical Inference", JASA 22 (1927).

    Args:
        successes: Numbers of successes, of any shape, each from 0 to ``count``.
        count: Number of trials behind each of them, at least 1.
        confidence: Confidence of the interval, in (0, 1).

    Returns:
        An `Interval` with fields of the shape of ``successes``.

    Raises:
        ValueError: There are no trials.

    Example:
        >>> interval = proportion_interval(20, 20)
        >>> float(interval.estimate), round(float(interval.low), 2), float(interval.high)
        (1.0, 0.84, 1.0)
    """
    check_int("count", count)
    share, z = np.asarray(successes, np.float64) / count, NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
    fields = map(_plain, (share, low, high, np.full(share.shape, count)))
    return Interval(*fields, seeds=count)


def _plain(value: np.ndarray) -> Any:
    """Returns an array, or the Python number of a scalar, which is printed without its type."""
    return value.item() if value.ndim == 0 else value


def bootstrap_interval(
    x: ArrayLike,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    by_task: bool = False,
) -> Interval:
    """Computes a statistic over seeds with its percentile bootstrap interval.

    Each draw takes as many seeds as there are, with replacement, and computes the statistic of
    them; the interval is ``[Q((1 - c) / 2), Q((1 + c) / 2)]`` of the statistic over ``resamples``
    draws (the paper's section 4.1). With one seed every draw is that seed, so low, high and the
    estimate are equal and ``Interval.degenerate`` is True; with none left all three are NaN.

    Args:
        x: Values ``[seeds]`` or ``[seeds, ...]``; every trailing entry gets an interval of its own.
            With ``by_task`` they are ``[tasks, seeds]``.
        statistic: Statistic to compute; see `Statistic`.
        confidence: Probability mass between low and high, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws; equal seeds give equal intervals.
        by_task: Whether each task's seeds are drawn separately (stratified) and the statistic pools
            all tasks.

    Returns:
        An `Interval` with fields of shape ``[...]``, scalars for ``[seeds]`` and with ``by_task``.

    Raises:
        ValueError: ``x`` has the wrong rank or no seeds, or the confidence lies outside (0, 1).

    Example:
        >>> interval = bootstrap_interval([1.0, 2.0, 3.0, float("nan")])
        >>> interval
        Interval(estimate=2.0, low=1.0, high=3.0, count=3, seeds=4)
        >>> bootstrap_interval([5.0]).degenerate
        True
    """
    x = np.asarray(x, dtype=np.float64)
    if not 0.0 < confidence < 1.0:
        raise invalid("confidence", confidence, "a number between 0 and 1")
    if x.ndim == 0 or x.size == 0 or (by_task and x.ndim != 2):
        expected = "[tasks, seeds]" if by_task else "[seeds] or [seeds, ...]"
        raise ValueError(f"expected {expected} with at least one value, got shape {x.shape}")
    quantiles = [(1 - confidence) / 2, (1 + confidence) / 2]
    if by_task:
        rows = [row[~np.isnan(row), None] for row in x]
        ((low,), (high,)) = np.quantile(_draws(rows, statistic, resamples, seed), quantiles, axis=0)
        centre, count = statistic(x, axis=None), np.sum(~np.isnan(x))
        return Interval(float(centre), float(low), float(high), int(count), x.size)
    # every trailing entry is a column with an interval of its own; those with NaNs in the same rows
    # are drawn together, as many as the memory allows
    columns = x.reshape(x.shape[0], -1)
    _, group_of_column = np.unique(np.isnan(columns), axis=1, return_inverse=True)
    max_columns = max(1, _MAX_NUMBERS_AT_ONCE // (resamples * x.shape[0]))
    low, high = np.empty((2, columns.shape[1]))
    for group in range(int(group_of_column.max()) + 1):
        group_members = np.flatnonzero(group_of_column == group)
        for start in range(0, group_members.size, max_columns):
            members = group_members[start : start + max_columns]
            rows = columns[~np.isnan(columns[:, members[0]])][:, members]
            draws = _draws([rows], statistic, resamples, seed)
            low[members], high[members] = np.quantile(draws, quantiles, axis=0)
    values = statistic(columns, axis=0), low, high, np.sum(~np.isnan(columns), axis=0)
    shaped = (_plain(np.reshape(value, x.shape[1:])) for value in values)
    return Interval(*shaped, seeds=x.shape[0])


def curve(
    x: ArrayLike,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the statistic over seeds at every evaluation with its pointwise interval.

    Args:
        x: Values ``[seeds, evaluations]``.
        statistic: Statistic to compute; see `Statistic`.
        confidence: Probability mass between low and high, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        ``(estimate, low, high)``, each ``[evaluations]``.

    Raises:
        ValueError: ``x`` does not have two axes.

    Example:
        >>> estimate, low, high = curve([[1.0, 2.0], [3.0, 6.0]])
        >>> estimate, low, high
        (array([2., 4.]), array([1., 2.]), array([3., 6.]))
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"expected [seeds, evaluations], got shape {x.shape}")
    interval = bootstrap_interval(x, statistic, confidence, resamples, seed)
    return interval.estimate, interval.low, interval.high


def area_under_curve(steps: ArrayLike, x: ArrayLike) -> np.ndarray:
    """Computes the mean of each curve over training.

    This is the area under the curve by the trapezoidal rule, divided by its length in steps.

    Args:
        steps: Environment steps ``[evaluations]``, at least two, rising.
        x: Values ``[..., evaluations]``; a curve with a NaN in it gives NaN.

    Returns:
        Means ``[...]``, in the unit of ``x``.

    Raises:
        ValueError: Lengths differ, there are fewer than two evaluations, or steps do not rise.

    Example:
        >>> float(area_under_curve([0, 10, 20], [0.0, 1.0, 1.0]))
        0.75
    """
    steps, x = np.asarray(steps, np.float64), np.asarray(x, np.float64)
    if (
        steps.ndim != 1
        or steps.size < 2
        or x.shape[-1:] != steps.shape
        or not (np.diff(steps) > 0).all()
    ):
        raise ValueError(
            f"expected two or more rising steps and [..., steps], got {steps.shape} and {x.shape}"
        )
    return np.trapezoid(x, steps, axis=-1) / (steps[-1] - steps[0])


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Estimates how likely a run of X is to beat a run of Y, a tie counting one half.

    ``mean over tasks of  1/(N K) sum_ij [x_i > y_j] + 1/2 [x_i = y_j]`` (section 4.3): the
    Mann-Whitney U statistic over ``N K``, which estimates ``P(X > Y) + P(X = Y) / 2``. NaNs are
    left out.

    Args:
        x: Values of X, ``[seeds]`` or ``[tasks, seeds]``.
        y: Values of Y, likewise, with the same tasks; the number of seeds may differ.

    Returns:
        A probability, 0 to 1; NaN where one side has no value at all.

    Raises:
        ValueError: The ranks or the numbers of tasks do not fit.

    Example:
        Of four pairs X wins two, and one is a tie:

        >>> probability_of_improvement([1.0, 2.0], [0.0, 2.0])
        0.625
    """
    x, y = np.atleast_2d(np.asarray(x, np.float64)), np.atleast_2d(np.asarray(y, np.float64))
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"expected [seeds] or [tasks, seeds] with equal tasks, got {x.shape} and {y.shape}"
        )
    shares = []
    for a, b in zip(x, y, strict=True):
        a, b = a[~np.isnan(a), None], b[~np.isnan(b)]
        pairs = (a > b) + 0.5 * (a == b)
        shares.append(pairs.mean() if pairs.size else np.nan)
    return float(np.mean(shares))


def satisfaction_rate(costs: ArrayLike, limit: np.ndarray) -> np.ndarray:
    """Computes the share of episodes whose cost is at most the limit.

    Args:
        costs: cost of each episode, ``[..., episodes, N, K]``.
        limit: limits, ``[N, K]``; inf where there is none.

    Returns:
        ``[..., N, K]``, 0 to 1; NaN where there is no limit.
    """
    return mask_unlimited(np.mean(np.asarray(costs) <= limit, axis=-3), limit)


def mask_unlimited(values: ArrayLike, limit: np.ndarray) -> np.ndarray:
    """Returns values with NaN wherever there is no limit.

    Args:
        values: ``[..., N, K]``.
        limit: limits, ``[N, K]``; inf where there is none.

    Returns:
        ``[..., N, K]`` float.
    """
    return np.where(np.isfinite(limit), np.asarray(values, float), np.nan)


def _draws(
    tasks: Sequence[np.ndarray], statistic: Statistic, resamples: int, seed: int
) -> np.ndarray:
    """Computes the statistic of all tasks together under every draw.

    Each task's seeds are drawn separately; equal seeds give equal draws for every column.

    Args:
        tasks: NaN-free values of each task, ``[seeds, C]``.
        statistic: Statistic to compute.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        ``[resamples, C]``; NaN where no seed is left.
    """
    generator = np.random.default_rng(seed)
    draws = [
        rows[generator.integers(len(rows), size=(resamples, len(rows)))]
        for rows in tasks
        if len(rows)
    ]
    if not draws:
        return np.full((resamples, tasks[0].shape[1]), np.nan)
    return np.asarray(statistic(np.concatenate(draws, axis=1), axis=1))
