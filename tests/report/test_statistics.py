import itertools

import numpy as np
import pytest
import scipy.stats

from jaxmarl_lite.report import statistics
from jaxmarl_lite.report.statistics import (
    bootstrap_interval,
    curve,
    iqm,
    probability_of_improvement,
    proportion_interval,
)


@pytest.mark.parametrize("n", range(1, 14))
def test_iqm_is_the_trimmed_mean_of_the_paper(n):
    x = np.random.default_rng(n).normal(size=(n, 3))
    assert np.allclose(iqm(x, axis=0), scipy.stats.trim_mean(x, 0.25, axis=0), atol=1e-14)
    assert np.isclose(iqm(x), scipy.stats.trim_mean(x, 0.25, axis=None))


def test_iqm_by_hand():
    assert iqm([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5  # 3, 4, 5, 6 are left
    assert iqm([0, 1, 2, 3, 100]) == 2  # floor(5 / 4) = 1 off each end
    assert iqm([0, 1, 100]) == pytest.approx(101 / 3)  # too few to drop any


def test_iqm_leaves_nans_out_and_counts_the_others():
    x = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [3.0, 4.0], [50.0, np.nan]])
    result = iqm(x, axis=0)
    assert result[0] == 2.5 and result[1] == 4.0  # of 1, 2, 3, 50 the outer two go
    assert np.isnan(iqm([np.nan, np.nan]))


def test_infinite_values_are_trimmed_like_any_extreme():
    assert iqm([-np.inf, 1, 2, 3]) == 1.5


def mean(x, axis):
    return np.mean(x, axis=axis)


def test_interval_against_all_possible_draws():
    x = np.array([0.0, 1.0, 5.0])
    every = np.sort([np.mean(draw) for draw in itertools.product(x, repeat=3)])
    result = bootstrap_interval(x, statistic=mean, confidence=0.8, resamples=50_000)
    assert (
        result.low
        == pytest.approx(np.quantile(every, 0.1, method="inverted_cdf"))
        == pytest.approx(1 / 3)
    )
    assert (
        result.high
        == pytest.approx(np.quantile(every, 0.9, method="inverted_cdf"))
        == pytest.approx(11 / 3)
    )
    assert result.estimate == 2.0 and result.count == 3 and not result.degenerate


def test_interval_against_scipy():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=17)
    ours = bootstrap_interval(x, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (x,),
        lambda v, axis: scipy.stats.trim_mean(v, 0.25, axis=axis),
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.05)


def test_interval_is_the_same_for_the_same_seed_only():
    x = np.random.default_rng(0).normal(size=9)
    assert bootstrap_interval(x, seed=4) == bootstrap_interval(x, seed=4)
    assert bootstrap_interval(x, seed=4) != bootstrap_interval(x, seed=5)


def test_one_seed_gives_a_degenerate_interval_and_none_gives_nan():
    one = bootstrap_interval([0.7])
    assert (one.estimate, one.low, one.high, one.count) == (0.7, 0.7, 0.7, 1) and one.degenerate
    none = bootstrap_interval([np.nan, np.nan])
    assert (
        np.isnan([none.estimate, none.low, none.high]).all() and none.count == 0 and none.seeds == 2
    )


def test_a_diverged_seed_is_left_out_and_counted():
    x = np.random.default_rng(2).normal(size=6)
    full, holed = bootstrap_interval(x), bootstrap_interval(np.append(x, np.nan))
    assert holed[:4] == full[:4] and (holed.count, holed.seeds) == (6, 7)


def test_every_column_gets_the_interval_it_would_get_alone():
    x = np.random.default_rng(3).normal(size=(5, 2, 7))
    x[1, 0, 3] = x[4, 1, 0] = np.nan
    result = bootstrap_interval(x, resamples=500)
    assert result.low.shape == (2, 7)
    for position in np.ndindex(2, 7):
        alone = bootstrap_interval(x[(slice(None), *position)], resamples=500)
        assert [part[position] for part in result[:4]] == list(alone[:4])
    centre, low, high = curve(x[:, 0], resamples=500)
    assert np.array_equal(centre, result.estimate[0]) and np.array_equal(low, result.low[0])
    assert np.array_equal(high, result.high[0])


def test_interval_by_task_draws_inside_each_task():
    flat = np.array([[0.0] * 4, [10.0] * 4])
    result = bootstrap_interval(flat, by_task=True)
    assert (result.estimate, result.low, result.high) == (
        5.0,
        5.0,
        5.0,
    )  # whatever is drawn, every task keeps its weight
    x = np.random.default_rng(0).normal(size=(3, 6)) + np.array([[0.0], [1.0], [2.0]])
    result = bootstrap_interval(x, by_task=True)
    assert result.estimate == pytest.approx(scipy.stats.trim_mean(x, 0.25, axis=None))
    assert result.low < result.estimate < result.high
    x[1, 2] = np.nan
    assert bootstrap_interval(x, by_task=True).count == 17


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        result = bootstrap_interval(generator.normal(size=20), resamples=400, seed=trial)
        hits += result.low <= 0.0 <= result.high
    assert 170 <= hits <= 200  # 95 % wanted; percentile intervals of 20 values fall a little short


def test_bad_input_is_refused():
    for x, arguments in (
        ([], {}),
        (3.0, {}),
        ([1.0, 2.0], {"by_task": True}),
        ([1.0], {"confidence": 95}),
    ):
        with pytest.raises(ValueError):
            bootstrap_interval(x, **arguments)
    with pytest.raises(ValueError, match=r"\[seeds, evaluations\]"):
        curve([1.0, 2.0])


def test_probability_of_improvement():
    assert probability_of_improvement([1, 2, 3], [0, 2]) == pytest.approx(
        (1 + 2 + 2 - 0.5) / 6
    )  # 4 wins, 1 tie
    assert probability_of_improvement([1, 1], [1, 1]) == 0.5
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.3, 1, 11), generator.normal(0, 1, 8)
    u = scipy.stats.mannwhitneyu(x, y).statistic / (11 * 8)
    assert probability_of_improvement(x, y) == pytest.approx(u)
    assert probability_of_improvement(np.append(x, np.nan), y) == pytest.approx(u)
    assert (
        probability_of_improvement([[2, 3], [0, 0]], [[1, 1], [1, 1]]) == 0.5
    )  # the mean over tasks
    with pytest.raises(ValueError):
        probability_of_improvement([[1, 2]], [[1, 2], [3, 4]])


def test_wilsons_interval_by_hand():
    result = proportion_interval([0, 8, 10], 10)
    assert np.allclose(result.estimate, [0, 0.8, 1])
    assert np.allclose(result.low, [0, 0.4902, 0.7225], atol=1e-4)
    assert np.allclose(result.high, [0.2775, 0.9433, 1], atol=1e-4)
    theirs = scipy.stats.binomtest(8, 10).proportion_ci(0.9, method="wilson")
    ours = proportion_interval(8, 10, 0.9)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    with pytest.raises(ValueError, match="count is 0"):
        proportion_interval(0, 0)


def test_the_mean_leaves_nans_out():
    assert statistics.mean([1.0, np.nan, 3.0]) == 2 and np.isnan(statistics.mean([np.nan]))
    assert np.array_equal(
        statistics.mean([[1.0, np.nan], [3.0, np.nan]], axis=0), [2, np.nan], equal_nan=True
    )


def test_the_area_under_a_curve_is_its_mean_over_training():
    assert statistics.area_under_curve(
        [0, 10, 40], [[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    ).tolist() == [0.875, 2.0]
    assert np.isnan(statistics.area_under_curve([0, 1], [0.0, np.nan]))
    for steps, x in (([0], [1.0]), ([0, 1], [1.0]), ([1, 0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="rising steps"):
            statistics.area_under_curve(steps, x)
