from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from jaxmarl_lite.report import plots, reward_plots, statistics

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


ACTIONS = ("move north", "move south", "stop", "attack 0", "attack 1")


def rewarded(agents: int, steps: int = 12) -> dict:
    draw = np.random.default_rng(0)
    alive = np.arange(steps)[:, None] < np.arange(steps, steps - agents, -1)
    return dict(
        intrinsic=draw.normal(size=(steps, agents)), action=draw.integers(0, 5, (steps, agents)),
        reward=draw.uniform(size=steps), alive=alive,
    )  # fmt: skip


def test_rewards_are_drawn_beside_what_was_done(tmp_path: Path) -> None:
    given = rewarded(3)
    figure = reward_plots.reward_picture(**given, action_names=ACTIONS, title="a battle", path=tmp_path / "r.png")
    team, *agents = figure.axes
    assert [bar.get_height() for bar in team.patches] == given["reward"].tolist()
    legend = {text.get_text(): patch.get_facecolor() for text, patch in zip(
        figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True)}  # fmt: skip
    assert set(legend) == {"move", "stop", "attack", "(out of play)"} and len(set(legend.values())) == 4
    for i, axes in enumerate(agents):
        there = np.flatnonzero(given["alive"][:, i])
        assert len(there) == 12 - i == len(axes.patches)
        shaded = axes.collections[0].get_paths()
        gone = [(t + 0.5, t + 1.5) for t in range(12) if t not in there]
        assert [tuple(path.get_extents().intervalx) for path in shaded] == gone
        for t, bar in zip(there, axes.patches, strict=True):
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(t + 1)
            assert bar.get_height() == given["intrinsic"][t, i]
            assert bar.get_facecolor() == legend[ACTIONS[given["action"][t, i]].split()[0]]
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_many_agents_are_rows_of_a_map_and_continuous_actions_have_no_names() -> None:
    many = rewarded(reward_plots.MOST_PANELS + 1)
    shown = reward_plots.reward_picture(**many).axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown.mask, ~many["alive"].T)
    assert reward_plots.reward_picture(**many).axes[1].images[0].get_extent()[:2] == [0.5, 12.5]  # steps from 1
    np.testing.assert_array_equal(shown.filled(0), np.where(many["alive"], many["intrinsic"], 0).T)
    few = rewarded(2) | {"action": np.zeros((12, 2, 3)), "alive": np.ones((12, 2), bool)}
    assert not reward_plots.reward_picture(**few).legends
    assert reward_plots.kinds(np.array([[0, 2]]))[1] == ["action 0", "action 1", "action 2"]


def test_no_two_kinds_of_action_share_a_colour() -> None:
    given = rewarded(2, steps=40)
    action = np.arange(80).reshape(40, 2) % 9
    action[:20] = 3
    figure = reward_plots.reward_picture(**given | {"action": action})
    shown = {text.get_text(): patch.get_facecolor() for text, patch in zip(
        figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True)}  # fmt: skip
    assert len(set(shown.values())) == len(shown) == 7 + 1 and {"action 3", "others"} < set(shown)
    for i, axes in enumerate(figure.axes[1:]):
        for t, bar in zip(np.flatnonzero(given["alive"][:, i]), axes.patches, strict=True):
            assert bar.get_facecolor() == shown.get(f"action {action[t, i]}", shown["others"])


@pytest.mark.parametrize("name", ["action", "reward", "alive"])
def test_rewards_that_do_not_fit(name: str) -> None:
    given = rewarded(2)
    with pytest.raises(ValueError, match=f"^{name} has shape .*intrinsic .12, 2.; allowed"):
        reward_plots.reward_picture(**given | {name: given[name][1:]})
