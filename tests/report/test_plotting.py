from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from jaxmarl_lite.algorithms.registry import ALGORITHMS
from jaxmarl_lite.report import plotting, statistics
from jaxmarl_lite.report.plotting import HLine, Panel, RunCurves, draw_panels
from jaxmarl_lite.report.tables import printable

STEPS = np.array([0, 1000, 2000])
VALUES = np.array([[0.0, 1, 2], [0, 2, 4], [0, 3, 6], [0, 10, 20], [np.nan, np.nan, np.nan]])
RUN = RunCurves(STEPS, VALUES)


def test_the_line_is_the_iqm_and_the_band_its_interval(tmp_path):
    figure = plotting.plot_runs({"liir": RUN}, best=5.0, random=-1.0, path=tmp_path / "a.png")
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_label() == "liir")
    assert np.array_equal(line.get_xdata(), STEPS) and np.allclose(line.get_ydata(), [0, 2.5, 5])
    _, low, high = statistics.curve(VALUES)
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(high.max()) and corners[
        :, 1
    ].min() == pytest.approx(low.min())
    levels = {
        line.get_ydata()[0]
        for line in axes.lines
        if np.ptp(np.asarray(line.get_ydata(), float)) == 0
    }
    assert {5.0, -1.0} <= levels
    assert {"best possible", "random policy"} <= {text.get_text() for text in axes.texts}
    assert all(text.get_bbox_patch() is not None for text in axes.texts), "curves cross the names"
    assert imread(tmp_path / "a.png").shape == (660, 1080, 4)


def test_seeds_can_be_left_out():
    few = plotting.plot_runs({"a": RUN}, show_seeds=False).axes[0].lines
    many = plotting.plot_runs({"a": RUN}).axes[0].lines
    assert len(many) - len(few) == len(VALUES)


def test_a_panel_has_lines_limits_and_words_about_them():
    gap = np.array([[0.0, np.nan, 4.0]])
    panels = [
        Panel("first", "reward", {"a": (STEPS, VALUES[:4])}, [HLine(3.0, "goal", "red")]),
        Panel("second", "share", {"b": (STEPS, gap)}, statistic=None, ylim=(0, 9)),
    ]
    figure = draw_panels(panels, title="both", columns=1, confidence=0.9)
    first, second = figure.axes
    assert first.lines[-1].get_ydata()[0] == 3 and first.texts[0].get_text() == "goal"
    assert second.lines[0].get_xydata().tolist() == [[0, 0], [2000, 4]]  # over the gap
    assert second.get_ylim() == (0, 9) and second.get_ylabel() == "share"
    assert figure.get_suptitle() == "both" and figure.get_supxlabel() == (
        "first: IQM of 4 seeds, band: 90% bootstrap interval; second: mean, band: least to greatest"
    )
    assert draw_panels(panels[:1] * 2).get_supxlabel().startswith("line: IQM of 4 seeds, band: 95%")


def test_single_seed_single_point_and_all_nan_can_be_drawn(tmp_path):
    runs = {"one": ([100], [[0.5]]), "flat": (STEPS, VALUES[0]), "gone": (STEPS, VALUES[4:])}
    draw_panels([Panel("", "return", runs)], path=tmp_path / "a.png")
    plotting.plot_metrics(runs, path=tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_panels_put_the_agents_of_a_metric_together():
    metrics = {
        "entropy": (STEPS, VALUES),
        "r/agent_0": (STEPS, VALUES),
        "r/agent_1": (STEPS, 2 * VALUES),
    }
    first, second = plotting.plot_metrics(metrics, columns=2).axes
    assert np.allclose(first.lines[0].get_ydata(), [0, 4, 8])
    corners = first.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0, 20)
    assert [line.get_label() for line in second.lines] == ["agent 0", "agent 1"]


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="'bad'"):
        plotting.plot_runs({"bad": RunCurves(STEPS, np.zeros((3, 2)))})
    with pytest.raises(ValueError, match="no runs"):
        plotting.plot_runs({})


def test_steps_are_readable():
    assert [plotting.format_steps(x) for x in (0, 500, 20_000, 1_500_000, 2e9)] == [
        "0",
        "500",
        "20k",
        "1.5M",
        "2B",
    ]


def test_no_figure_is_left_with_pyplot():
    import matplotlib.pyplot as plt

    previous = plt.get_fignums()
    plotting.plot_runs({"a": RUN})
    assert plt.get_fignums() == previous


ACTIONS = ("move north", "move south", "stop", "attack 0", "attack 1")


def rewarded(agents: int, steps: int = 12) -> dict:
    draw = np.random.default_rng(0)
    alive = np.arange(steps)[:, None] < np.arange(steps, steps - agents, -1)
    return dict(
        intrinsic=draw.normal(size=(steps, agents)),
        action=draw.integers(0, 5, (steps, agents)),
        reward=draw.uniform(size=steps),
        alive=alive,
    )


def test_rewards_are_drawn_beside_what_was_done(tmp_path: Path) -> None:
    rollouts = rewarded(3)
    figure = plotting.plot_intrinsic_rewards(
        **rollouts, action_names=ACTIONS, title="a battle", path=tmp_path / "r.png"
    )
    team, *agents = figure.axes
    assert [bar.get_height() for bar in team.patches] == rollouts["reward"].tolist()
    legend = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True
        )
    }
    assert (
        set(legend) == {"move", "stop", "attack", "(out of play)"}
        and len(set(legend.values())) == 4
    )
    for i, axes in enumerate(agents):
        there = np.flatnonzero(rollouts["alive"][:, i])
        assert len(there) == 12 - i == len(axes.patches)
        shaded = axes.collections[0].get_paths()
        gone = [(t + 0.5, t + 1.5) for t in range(12) if t not in there]
        assert [tuple(path.get_extents().intervalx) for path in shaded] == gone
        for t, bar in zip(there, axes.patches, strict=True):
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(t + 1)
            assert bar.get_height() == rollouts["intrinsic"][t, i]
            assert bar.get_facecolor() == legend[ACTIONS[rollouts["action"][t, i]].split()[0]]
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_many_agents_are_rows_of_a_map_and_continuous_actions_have_no_names() -> None:
    many = rewarded(plotting.MOST_PANELS + 1)
    drawn = plotting.plot_intrinsic_rewards(**many).axes[1].images[0].get_array()
    np.testing.assert_array_equal(drawn.mask, ~many["alive"].T)
    assert plotting.plot_intrinsic_rewards(**many).axes[1].images[0].get_extent()[:2] == [
        0.5,
        12.5,
    ]  # steps from 1
    np.testing.assert_array_equal(drawn.filled(0), np.where(many["alive"], many["intrinsic"], 0).T)
    few = rewarded(2) | {"action": np.zeros((12, 2, 3)), "alive": np.ones((12, 2), bool)}
    assert not plotting.plot_intrinsic_rewards(**few).legends
    assert plotting.action_categories(np.array([[0, 2]]))[1] == [
        "action 0",
        "action 1",
        "action 2",
    ]


def test_no_two_kinds_of_action_share_a_colour() -> None:
    rollouts = rewarded(2, steps=40)
    action = np.arange(80).reshape(40, 2) % 9
    action[:20] = 3
    figure = plotting.plot_intrinsic_rewards(**rollouts | {"action": action})
    drawn = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True
        )
    }
    assert len(set(drawn.values())) == len(drawn) == 7 + 1 and {"action 3", "others"} < set(drawn)
    for i, axes in enumerate(figure.axes[1:]):
        for t, bar in zip(np.flatnonzero(rollouts["alive"][:, i]), axes.patches, strict=True):
            assert bar.get_facecolor() == drawn.get(f"action {action[t, i]}", drawn["others"])


@pytest.mark.parametrize("name", ["action", "reward", "alive"])
def test_rewards_that_do_not_fit(name: str) -> None:
    rollouts = rewarded(2)
    with pytest.raises(ValueError, match=f"^{name} has shape .*intrinsic .12, 2.; allowed"):
        plotting.plot_intrinsic_rewards(**rollouts | {name: rollouts[name][1:]})


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.pdf", b"%PDF"), ("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.jpeg", b"\xff\xd8")],
)
def test_a_picture_has_the_format_of_its_suffix(name: str, begins: bytes, tmp_path: Path) -> None:
    plotting.plot_runs({"a": RUN}, path=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_every_format_can_be_written(tmp_path: Path) -> None:
    for ending in plotting.FORMATS:
        plotting.plot_metrics({"a": (STEPS, VALUES)}, path=tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").stat().st_size > 1000


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png", "folder.png"])
def test_a_file_that_is_no_picture_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for draw in (
        lambda path: plotting.plot_runs({"a": RUN}, path=path),
        lambda path: plotting.plot_metrics({"a": (STEPS, VALUES)}, path=path),
        lambda path: plotting.plot_intrinsic_rewards(**rewarded(2), path=path),
    ):
        with pytest.raises(ValueError, match=f"path is '.*{name}'.*; allowed is a file's name"):
            draw(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def styles(axes) -> list[tuple]:
    return [
        (line.get_color(), line._dash_pattern, line.get_marker())
        for line in axes.lines
        if not line.get_label().startswith("_")
    ]


def test_an_algorithm_looks_the_same_in_every_figure() -> None:
    figures = [["liir", "mappo"], ["own", "mappo", "liir", "iac"], [*ALGORITHMS, "own"]]
    looks = []
    for labels in figures:
        (axes,) = plotting.plot_runs({label: RUN for label in labels}).axes
        looks.append(dict(zip(labels, map(repr, styles(axes)), strict=True)))
        assert len(set(looks[-1].values())) == len(labels)
    for label in ("liir", "mappo", "iac"):
        assert len({look[label] for look in looks if label in look}) == 1
    colors = {repr(plotting.PALETTE[i]) for i in range(7)}
    (axes,) = plotting.plot_runs({f"own {i}": RUN for i in range(7)}).axes
    assert {repr(color) for color, _, _ in styles(axes)} == colors
    assert set(plotting.style_indices(ALGORITHMS).values()) == set(range(len(ALGORITHMS)))


def test_a_limit_has_the_color_of_its_algorithm() -> None:
    runs = {
        label: RunCurves(STEPS, costs=VALUES[:1, :, None, None], limits=[[limit]])
        for label, limit in (("happo", 1.0), ("macpo", 2.0))
    }
    (axes,) = plotting.plot_runs(runs).axes
    colors = {line.get_label(): line.get_color() for line in axes.lines}
    texts = {text.get_text(): text.get_color() for text in axes.texts}
    assert texts == {f"limit of {label}": colors[label] for label in runs}


def test_many_curves_can_be_told_apart() -> None:
    runs = {f"run {i}": RunCurves(STEPS, VALUES[:1]) for i in range(40)}
    panels = {f"x/agent_{i}": (STEPS, VALUES[:1]) for i in range(40)}
    costs = {f"run {i}": RunCurves(STEPS, costs=VALUES[:1, :, None, None]) for i in range(40)}
    points = {f"run {i}": RunCurves([100], [[0.5]]) for i in range(20)}
    for figure, count in (
        (plotting.plot_runs(runs), 40),
        (plotting.plot_metrics(panels), 40),
        (plotting.plot_runs(costs), 40),
        (plotting.plot_runs(points), 20),
    ):
        result = styles(figure.axes[0])
        assert len(result) == count and len({repr(style) for style in result}) == count
    markers = {(color, marker) for color, _, marker in styles(plotting.plot_runs(points).axes[0])}
    assert len(markers) == 20, "a lone point has no line to tell it apart by"


ODD = [
    "a $x_$ b",
    "$\\frac{1$",
    "[/red] [m/s]",
    "100 % \\& {",
    "_hidden",
    ":warning:",
    "\x1b[31mred",
    "\udcff",
]


@pytest.mark.parametrize("text", ODD)
def test_words_in_pictures_are_text(text: str, tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": False}):
        figure = plotting.plot_runs({text: RUN}, ylabel=text, title=text, path=tmp_path / "a.svg")
    axes = figure.axes[0]
    (label,) = [item.get_text().strip() for item in axes.get_legend().get_texts()]
    assert label == figure.get_suptitle() == printable(text)
    plotting.plot_runs(
        {text: RunCurves(STEPS, VALUES, VALUES[..., None, None])},
        cost_names=[text],
        cost_descriptions=[text],
        title=text,
        path=tmp_path / "b.png",
    )
    plotting.plot_metrics(
        {text.replace("/", ""): (STEPS, VALUES)}, title=text, path=tmp_path / "c.png"
    )
    plotting.plot_intrinsic_rewards(
        **rewarded(2), action_names=[text] * 5, title=text, path=tmp_path / "d.png"
    )
