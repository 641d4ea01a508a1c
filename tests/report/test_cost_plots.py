import numpy as np
import pytest

from jaxmarl_lite.report import plotting, statistics
from jaxmarl_lite.report.plotting import RunCurves
from jaxmarl_lite.report.tables import worst_agent

STEPS = np.array([0, 1000])
RETURNS = np.array([[0.0, 1.0], [0.0, 3.0]])
INF = np.inf


def costs(*agents):
    """Costs ``[2 seeds, 2, N, 1]`` of agents that cost so much, the second seed 2 more at the
    end."""
    one = np.broadcast_to(np.asarray(agents, float)[:, None], (2, 2, len(agents), 1)).copy()
    one[1, 1] += 2
    return one


def lines(axes):
    return {
        line.get_label(): list(line.get_ydata())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def levels(axes):
    """Limit lines: their level -> (label beside it, color)."""
    dashed = [
        line
        for line in axes.lines
        if line.get_linestyle() == "--" and line.get_label().startswith("_")
    ]
    message = {text.xy[1]: text.get_text() for text in axes.texts}
    return {
        line.get_ydata()[0]: (message[line.get_ydata()[0]], line.get_color()) for line in dashed
    }


def test_a_panel_per_cost_beside_the_returns(tmp_path):
    both = np.concatenate([costs(1, 5), costs(10, 50)], -1)
    figure = plotting.plot_runs(
        {"macpo": RunCurves(STEPS, RETURNS, both, limits=[[4, INF], [4, INF]])},
        cost_names=("speed", "hits"),
        path=tmp_path / "a.png",
        cost_descriptions=("metres per second", "collisions"),
        best=9.0,
        random=0.5,
    )
    returns, speed, hits = figure.axes
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert lines(returns) == {"macpo": [0, 2]} and {"best possible", "random policy"} <= {
        text.get_text() for text in returns.texts
    }
    assert lines(speed) == {"agent 0": [1, 2], "agent 1": [5, 6]} and lines(hits)["agent 1"] == [
        50,
        51,
    ]
    assert (
        [text for text, _ in levels(speed).values()] == ["limit"]
        and list(levels(speed)) == [4]
        and not levels(hits)
    )
    assert (speed.get_title(loc="left"), speed.get_ylabel()) == ("cost: speed", "metres per second")
    corners = speed.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (
        1,
        statistics.bootstrap_interval([1.0, 3.0], statistics.mean).high,
    )


def test_unequal_limits_have_the_colour_of_their_agent():
    (axes,) = plotting.plot_runs(
        {"a": RunCurves(STEPS, costs=costs(1, 2, 3, 4), limits=[[3], [5], [5], [INF]])}
    ).axes
    assert levels(axes) == {
        3: ("limit of agent 0", plotting.PALETTE[0]),
        5: ("limit of agent 1, agent 2", "#262626"),
    }


def test_many_agents_are_a_mean_and_a_range():
    (axes,) = plotting.plot_runs(
        {"a": RunCurves(STEPS, costs=costs(*range(7)), limits=np.full((7, 1), 3.0))}
    ).axes
    assert lines(axes) == {"mean of 7 agents": [3, 4]} and list(levels(axes)) == [3]
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (0, 7)


@pytest.mark.parametrize(
    ("limits", "agents", "line", "level", "message"),
    [
        ([[3], [3]], "worst", [5, 6], 3, "worst agent"),
        ([[3], [3]], "mean", [3, 4], 3, "mean over agents"),
        ([[0.5], [9]], "worst", [0.5, 1.5], 0, "worst agent, less its limit"),
        ([[2], [INF]], "worst", [1, 2], 2, "worst agent"),
        (None, "worst", [5, 6], None, "worst agent"),
    ],
)
def test_several_runs_have_a_line_each(limits, agents, line, level, message):
    runs = {
        "macpo": RunCurves(STEPS, RETURNS, costs(1, 5), limits=limits),
        "mappo": RunCurves(STEPS, RETURNS, costs(3, 5) + 1, limits=limits),
    }
    returns, axes = plotting.plot_runs(runs, agents=agents).axes
    assert set(lines(returns)) == set(runs) == set(lines(axes))
    assert lines(axes)["macpo"] == line and list(levels(axes)) == ([] if level is None else [level])
    assert axes.get_ylabel().replace("\n", " ") == f"cost per episode ({message})"


def test_runs_may_have_limits_of_their_own():
    limits = {"tight": [[1], [1]], "loose": [[7], [7]], "free": None}
    runs = {
        name: RunCurves(STEPS, costs=costs(1, 5), limits=limit) for name, limit in limits.items()
    }
    (axes,) = plotting.plot_runs(runs).axes
    colors = plotting.PALETTE
    assert levels(axes) == {1: ("limit of tight", colors[0]), 7: ("limit of loose", colors[1])}


def test_diverged_seeds_are_left_out():
    lost = costs(1, 5)
    lost[1] = np.nan
    (axes,) = plotting.plot_runs({"a": RunCurves(STEPS, costs=lost)}, agents="worst").axes
    assert lines(axes) == {"a": [5, 5]}
    many = np.concatenate([lost] * 4, axis=2)
    (axes,) = plotting.plot_runs({"a": RunCurves(STEPS, costs=many)}).axes
    assert lines(axes) == {"mean of 8 agents": [3, 3]}


def test_wrong_shapes_are_named():
    one = RunCurves(STEPS, costs=costs(1))
    for runs, message in (
        ({"bad": RunCurves(STEPS, RETURNS, costs(1, 2)[..., 0])}, r"'bad'.*\(2, 2, 2\)"),
        ({"bad": RunCurves(STEPS, RETURNS, costs(1, 2), limits=[1, 2])}, r"'bad'.*limits \(2,\)"),
        ({"a": one, "b": RunCurves(STEPS, costs=costs(1, 2))}, "allowed is one"),
        ({"a": one, "b": RunCurves(STEPS, RETURNS, costs(1))}, "allowed is one"),
        ({"a": one, "b": RunCurves(STEPS)}, "allowed is one"),
        ({}, "no runs"),
        ({"a": RunCurves(STEPS)}, "no panels"),
    ):
        with pytest.raises(ValueError, match=message):
            plotting.plot_runs(runs)
    with pytest.raises(ValueError, match="agents is 'best'"):
        plotting.plot_runs({"a": one}, agents="best")


def test_metric_panels_have_a_panel_per_cost():
    names = [f"eval_cost/agent_{i}/cost_{k}" for i in range(2) for k in range(2)]
    figure = plotting.plot_metrics(
        {name: (STEPS, RETURNS) for name in names}, cost_names=("speed",)
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "eval cost: speed",
        "eval cost: cost 1",
    ]
    assert [list(lines(axes)) for axes in figure.axes] == [["agent 0", "agent 1"]] * 2


def test_the_worst_agent_is_the_one_farthest_over_its_limit():
    assert worst_agent([1, 5, 3], [9, 9, 1]) == 2 and worst_agent([1, 5, 3], [INF] * 3) == 1
    assert worst_agent([1, 5, np.nan], [1, INF, 0]) == 0
