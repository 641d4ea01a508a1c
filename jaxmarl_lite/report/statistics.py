"""Few seeds, honest numbers: interquartile mean, bootstrap intervals, probability of improvement.

Source: Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep Reinforcement Learning at the
Edge of the Statistical Precipice", NeurIPS 2021 (arXiv:2108.13264), sections 4.1 to 4.3.

A diverged seed is a NaN. It is left out of every statistic here and counted beside it
(``Interval.count`` against ``Interval.seeds``), so that a report can say "4 of 5 seeds" instead of
hiding the fifth.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

Statistic = Callable[..., Any]
"""``statistic(x, axis=...)``; ``axis`` an int, or None for the whole array. It must leave NaNs
out."""

_MOST_NUMBERS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A statistic with its confidence interval; every field has the shape of the statistic."""

    estimate: Any
    low: Any
    high: Any
    count: Any
    """Finite or infinite values that entered: seeds that did not end as NaN."""
    seeds: int
    """Values there were, NaN or not."""

    @property
    def degenerate(self) -> bool:
        """True where fewer than two values entered somewhere: low and high then say nothing about
        the spread.
        """
        return bool(np.min(self.count) < 2)


def iqm(x: Any, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of the middle half of the values.

    With ``n`` values, the ``floor(n / 4)`` smallest and as many of the largest are dropped and the
    rest averaged: ``scipy.stats.trim_mean(x, 0.25)``, which the paper's own program uses, so that
    numbers can be compared with published ones. (The other definition in use gives the values at
    the quartiles fractional weights; the two agree when n is divisible by 4.) Below four values
    nothing is dropped: the IQM of 3 seeds is their mean.

    NaNs are left out, n counting the others; NaN where nothing is left.

    Args:
        x: any shape.
        axis: the axis to reduce; None pools everything, as the paper does with ``[tasks, seeds]``.
    """
    x = np.asarray(x, dtype=np.float64)
    if axis is None:
        x, axis = x.reshape(-1), 0
    x = np.sort(np.moveaxis(x, axis, -1), axis=-1)  # NaNs go last
    count = np.sum(~np.isnan(x), axis=-1, keepdims=True)
    cut = count // 4
    place = np.arange(x.shape[-1])
    kept = (place >= cut) & (place < count - cut)
    total = np.sum(np.where(kept, x, 0.0), axis=-1)
    with np.errstate(invalid="ignore"):
        return (total / (count - 2 * cut)[..., 0])[()]


def mean(x: Any, axis: int | None = None) -> Any:
    """Arithmetic mean over an axis (None: over all); NaNs are left out, NaN where nothing is
    left.
    """
    x = np.asarray(x, dtype=np.float64)
    count = np.sum(~np.isnan(x), axis=axis)
    with np.errstate(invalid="ignore"):
        return (np.nansum(x, axis=axis) / count)[()]


def proportion_interval(kept: Any, count: int, confidence: float = 0.95) -> Interval:
    """A probability estimated from ``kept`` of ``count`` independent trials, with Wilson's score
    interval.

    ``centre`` is the plain share; the interval stays inside [0, 1] and does not shrink to a point
    where all or no trials succeed: 20 of 20 give [0.84, 1]. Source: Wilson, "Probable Inference,
    the Law of Succession, and Statistical Inference", JASA 22 (1927).

    Args:
        kept: numbers of successes, any shape.
        count: trials behind each, at least 1.
        confidence: in (0, 1).

    Raises:
        ValueError: no trials.
    """
    if count < 1:
        raise ValueError(f"count is {count}; allowed is 1 or more")
    share, z = np.asarray(kept, np.float64) / count, NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
    return Interval(share[()], low[()], high[()], np.full(share.shape, count)[()], count)


def bootstrap_interval(
    x: Any,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    by_task: bool = False,
) -> Interval:
    """Percentile bootstrap: draw as many seeds with replacement, take the statistic, and again;
    then its quantiles.

    ``[Q((1 - c) / 2), Q((1 + c) / 2)]`` of the statistic over ``resamples`` draws (the paper's
    section 4.1). With one seed every draw is that seed, so low = high = centre and
    ``Interval.degenerate`` is True; with none left all three are NaN.

    Args:
        x: ``[seeds]`` or ``[seeds, ...]``; every trailing entry gets an interval of its own. With
            ``by_task`` it is ``[tasks, seeds]``: each task's seeds are drawn apart (stratified) and
            the statistic pools all tasks.
        statistic: see ``Statistic``.
        confidence: probability mass between low and high, in (0, 1).
        resamples: number of draws.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        ValueError: wrong rank, no seeds, or a confidence outside (0, 1).
    """
    x = np.asarray(x, dtype=np.float64)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if x.ndim == 0 or x.size == 0 or (by_task and x.ndim != 2):
        wanted = "[tasks, seeds]" if by_task else "[seeds] or [seeds, ...]"
        raise ValueError(f"expected {wanted} with at least one value, got shape {x.shape}")
    quantiles = [(1 - confidence) / 2, (1 + confidence) / 2]
    if by_task:
        draws = _draws_by_task(x, statistic, resamples, seed)
        low, high = np.quantile(draws, quantiles)
        return Interval(
            float(statistic(x, axis=None)),
            float(low),
            float(high),
            int(np.sum(~np.isnan(x))),
            x.size,
        )
    columns = x.reshape(x.shape[0], -1)
    low, high = np.empty((2, columns.shape[1]))
    for some in _alike(columns, resamples):
        draws = _draws(columns[:, some], statistic, resamples, seed)
        low[some], high[some] = np.quantile(draws, quantiles, axis=0)
    shape = x.shape[1:]
    centre = statistic(columns, axis=0)
    count = np.sum(~np.isnan(columns), axis=0)
    return Interval(
        *(np.reshape(value, shape)[()] for value in (centre, low, high, count)), seeds=x.shape[0]
    )


def curve(
    x: Any,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The statistic over seeds at every evaluation with its pointwise interval.

    Args:
        x: ``[seeds, evaluations]``; the rest as for ``bootstrap_interval``.

    Returns:
        ``centre, low, high``, each ``[evaluations]``.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"expected [seeds, evaluations], got shape {x.shape}")
    found = bootstrap_interval(x, statistic, confidence, resamples, seed)
    return found.estimate, found.low, found.high


def area_under_curve(steps: Any, x: Any) -> np.ndarray:
    """Mean of each curve over training: the area under it by the trapezoidal rule, divided by its
    length in steps.

    Args:
        steps: ``[evaluations]``, at least two, rising.
        x: ``[..., evaluations]``; a curve with a NaN in it gives NaN.

    Returns:
        ``[...]``, in the unit of ``x``.

    Raises:
        ValueError: lengths that differ, fewer than two evaluations, or steps that do not rise.
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


def probability_of_improvement(x: Any, y: Any) -> float:
    """How likely a run of X is to beat a run of Y: ``P(X > Y)``, a tie counting one half.

    ``mean over tasks of  1/(N K) sum_ij [x_i > y_j] + 1/2 [x_i = y_j]`` (section 4.3): the
    Mann-Whitney U statistic over ``N K``. NaNs are left out.

    Args: x, y: ``[seeds]``, or ``[tasks, seeds]`` with the same tasks; the numbers of seeds may
        differ.

    Returns:
        A probability; NaN where one side has no value at all.
    """
    x, y = np.atleast_2d(np.asarray(x, np.float64)), np.atleast_2d(np.asarray(y, np.float64))
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"expected [seeds] or [tasks, seeds] with equal tasks, got {x.shape} and {y.shape}"
        )
    return float(
        np.mean([_beats(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(x, y, strict=True)])
    )


def _beats(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 over all pairs of ``[n]`` and ``[k]``."""
    if x.size == 0 or y.size == 0:
        return np.nan
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def _alike(columns: np.ndarray, resamples: int) -> list[np.ndarray]:
    """Groups of columns of ``[seeds, C]`` with NaNs in the same rows, each small enough to be drawn
    at once.
    """
    _, group = np.unique(np.isnan(columns), axis=1, return_inverse=True)
    most = max(1, _MOST_NUMBERS_AT_ONCE // (resamples * columns.shape[0]))
    found = []
    for which in range(int(group.max()) + 1):
        members = np.flatnonzero(group == which)
        found += [members[start : start + most] for start in range(0, members.size, most)]
    return found


def _draws(columns: np.ndarray, statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
    """The statistic of ``[seeds, C]`` under every draw of its NaN-free rows: ``[resamples, C]``."""
    rows = columns[~np.isnan(columns[:, 0])]
    if rows.shape[0] == 0:
        return np.full((resamples, columns.shape[1]), np.nan)
    index = np.random.default_rng(seed).integers(rows.shape[0], size=(resamples, rows.shape[0]))
    return np.asarray(statistic(rows[index], axis=1))


def _draws_by_task(x: np.ndarray, statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
    """The pooled statistic of ``[tasks, seeds]``, each task's seeds drawn apart:
    ``[resamples]``.
    """
    generator = np.random.default_rng(seed)
    tasks = [row[~np.isnan(row)] for row in x]
    drawn = [
        row[generator.integers(row.size, size=(resamples, row.size))] for row in tasks if row.size
    ]
    if not drawn:
        return np.full(resamples, np.nan)
    return np.asarray(statistic(np.concatenate(drawn, axis=1), axis=1))
