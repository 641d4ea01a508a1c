import numpy as np
import pytest
from matplotlib.image import imread

from jaxmarl_lite.report import plots, statistics

STEPS = np.array([0, 1000, 2000])
VALUES = np.array([[0.0, 1, 2], [0, 2, 4], [0, 3, 6], [0, 10, 20], [np.nan, np.nan, np.nan]])


def test_the_line_is_the_iqm_and_the_band_its_interval(tmp_path):
    figure = plots.learning_curve({"liir": (STEPS, VALUES)}, best=5.0, random=-1.0, path=tmp_path / "a.png")
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_label() == "liir")
    assert np.array_equal(line.get_xdata(), STEPS) and np.allclose(line.get_ydata(), [0, 2.5, 5])
    _, low, high = statistics.curve(VALUES)
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(high.max()) and corners[:, 1].min() == pytest.approx(low.min())
    levels = {line.get_ydata()[0] for line in axes.lines if np.ptp(np.asarray(line.get_ydata(), float)) == 0}
    assert {5.0, -1.0} <= levels
    assert {"best possible", "random policy"} <= {text.get_text() for text in axes.texts}
    assert imread(tmp_path / "a.png").shape == (660, 1080, 4)


def test_seeds_can_be_left_out():
    few = plots.learning_curve({"a": (STEPS, VALUES)}, seeds=False).axes[0].lines
    many = plots.learning_curve({"a": (STEPS, VALUES)}).axes[0].lines
    assert len(many) - len(few) == len(VALUES)


def test_single_seed_single_point_and_all_nan_can_be_drawn(tmp_path):
    runs = {"one": ([100], [[0.5]]), "flat": (STEPS, VALUES[0]), "gone": (STEPS, VALUES[4:])}
    plots.learning_curve(runs, path=tmp_path / "a.png")
    plots.metric_panels(runs, path=tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_panels_put_the_agents_of_a_metric_together():
    metrics = {"entropy": (STEPS, VALUES), "r/agent_0": (STEPS, VALUES), "r/agent_1": (STEPS, 2 * VALUES)}
    first, second = plots.metric_panels(metrics, columns=2).axes
    assert np.allclose(first.lines[0].get_ydata(), [0, 4, 8])
    corners = first.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0, 20)
    assert [line.get_label() for line in second.lines] == ["agent 0", "agent 1"]


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="'bad'"):
        plots.learning_curve({"bad": (STEPS, np.zeros((3, 2)))})
    with pytest.raises(ValueError, match="no runs"):
        plots.learning_curve({})


def test_steps_are_readable():
    assert [plots.steps_text(x) for x in (0, 500, 20_000, 1_500_000, 2e9)] == ["0", "500", "20k", "1.5M", "2B"]


def test_no_figure_is_left_with_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.learning_curve({"a": (STEPS, VALUES)})
    assert plt.get_fignums() == before
