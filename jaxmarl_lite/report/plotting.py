"""Figures of runs, metrics and learned rewards.

A figure is a list of panels; a `Panel` holds labelled curves with bands, and horizontal lines.
Figures are drawn with matplotlib's objects: no display and no global state is needed.

Example:
    Two tasks side by side, and one comparison of runs with their costs::

        plotting.draw_panels([Panel("task A", "return", {"liir": (steps, returns)}), ...])
        plotting.plot_runs({"macpo": result, "mappo": RunCurves(steps, returns, costs)})
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxmarl_lite.report import atomic_io, statistics
from jaxmarl_lite.report.tables import MAX_AGENT_LINES, cost_label, printable

Curve = tuple[Any, Any]
"""Environment steps ``[E]`` and values ``[seeds, E]``."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
"""Colors that differ with any kind of color blindness (Okabe and Ito 2008), without the pale
yellow."""

FORMATS = ("png", "pdf", "svg", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp", "svgz")
"""Suffixes of the files that a figure can be written to."""

_LINES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLES: list[dict[str, Any]] = [
    {"color": color, "linestyle": line, "marker": marker}
    for marker in ("", *_MARKERS)
    for line in _LINES
    for color in PALETTE
]
"""Styles of curves by their index: seven colors, four line styles and seven markers make 196."""

_ALGORITHMS = (
    *("liir", "macpo", "mappo-lagrangian", "happo", "ippo", "mappo", "qmix"),
    *("hatrpo", "central-v", "coma", "iac"),
)
"""Algorithms in the order of their styles, which are the same in every figure."""

TEXT_COLOR, MUTED_COLOR = "#262626", "#8c8c8c"
"""Colors of words and axes, and of what is less important."""

MOST_PANELS = 8
"""Up to so many agents have a panel of rewards each; more become the rows of one map."""
_SHADE = "#e4e4e4"


class RunCurves(NamedTuple):
    """Curves of a run as plain arrays; None for what it does not have. NaNs are left out.

    Attributes:
        steps: Environment steps ``[E]``.
        returns: Returns ``[seeds, E]``.
        costs: Costs per episode ``[seeds, E, N, K]``.
        win_rates: Shares of won episodes ``[seeds, E]``, 0 to 1.
        limits: Limits of the costs ``[N, K]``, inf where there is none.
    """

    steps: ArrayLike
    returns: ArrayLike | None = None
    costs: ArrayLike | None = None
    win_rates: ArrayLike | None = None
    limits: ArrayLike | None = None


class HLine(NamedTuple):
    """A horizontal line across a panel.

    Attributes:
        value: Its height.
        label: Its name, written on its right end.
        color: Color of line and name.
        dashes: Line style of matplotlib.
    """

    value: float
    label: str
    color: str = MUTED_COLOR
    dashes: Any = (0, (5, 2))


@dataclasses.dataclass(frozen=True)
class Panel:
    """Labelled curves over environment steps, in one pair of axes.

    Attributes:
        title: Title of the panel.
        ylabel: Meaning of the values with their unit, for the y axis.
        curves: Label -> `Curve`; NaNs are left out.
        hlines: Horizontal lines, such as limits.
        statistic: Statistic over seeds, drawn with its bootstrap interval; None: the mean, with a
            band from the least to the greatest value.
        show_seeds: Whether every seed is drawn as a thin line too.
        ylim: Ends of the y axis; None: what the curves need.
    """

    title: str
    ylabel: str
    curves: Mapping[str, Curve]
    hlines: Sequence[HLine] = ()
    statistic: statistics.Statistic | None = statistics.iqm
    show_seeds: bool = False
    ylim: tuple[float, float] | None = None


def style_indices(labels: Iterable[str]) -> dict[str, int]:
    """Returns the index of the style of each curve of a panel.

    An algorithm of the library has the same color and line in every figure. All other curves take,
    in their order, the first styles that no algorithm of the panel has.

    Args:
        labels: Names of the curves, in order.

    Returns:
        Label -> index of its style, from 0. Styles 0 to 6 are solid lines in the colors of
        `PALETTE`, styles 7 to 13 dashed lines in the same colors, and so on.

    Example:
        >>> style_indices(["ours", "mappo", "liir"])
        {'ours': 1, 'mappo': 5, 'liir': 0}
    """
    labels = list(labels)
    fixed = {label: _ALGORITHMS.index(label) for label in labels if label in _ALGORITHMS}
    free = (index for index in itertools.count() if index not in fixed.values())
    return {label: fixed[label] if label in fixed else next(free) for label in labels}


def plot_runs(
    runs: Mapping[str, Any],
    *,
    cost_names: Sequence[str] = (),
    cost_descriptions: Sequence[str] = (),
    agents: Literal["worst", "mean"] | None = None,
    ylabel: str = "return",
    title: str = "",
    path: Path | str | None = None,
    best: float | None = None,
    random: float | None = None,
    show_seeds: bool = True,
    confidence: float = 0.95,
) -> Figure:
    """Draws one run, or compares several: panels of returns, win rates, and each cost.

    Lines are the IQM over seeds, for costs the mean, with pointwise bootstrap intervals.

    One run's cost has a line per agent; for more than `MAX_AGENT_LINES` agents it is the mean over
    agents, with the band from the cheapest to the costliest agent (means over seeds). A dashed line
    is drawn for each distinct limit, in the color of its agent where the agents' limits differ.

    Of several runs each has one line, that of its agents with a limit (of all, where none has one):
    for each seed and evaluation the costliest agent, or the mean over agents. Where the agents'
    limits differ, the line is the cost less the agent's limit, so that "worst" is the agent
    farthest over its own, and the limit is the line at 0; where runs have limits of their own, each
    has its line in the run's color. The axis says which.

    Args:
        runs: Label -> `RunCurves`, or a `Result`, which has the same attributes. What one run has,
            all have, with the same agents and costs.
        cost_names: Name of each cost, heads its panel.
        cost_descriptions: Meaning of each cost with its unit, for its axis.
        agents: Agent that a run's line shows, "worst" or "mean"; None: each agent of a single run,
            the worst of several.
        ylabel: Meaning of the return, for its axis.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        best: Highest possible return, drawn as a dashed line.
        random: Return of the random policy, likewise.
        show_seeds: Whether to draw every seed's returns and win rates as thin lines too.
        confidence: Confidence of the intervals, in (0, 1).

    Returns:
        The figure.

    Raises:
        ValueError: There are no runs, their curves or shapes do not fit (the message names the
            run), ``agents`` is another word, or the file cannot be written.
    """
    panels = run_panels(
        runs,
        cost_names=cost_names,
        cost_descriptions=cost_descriptions,
        agents=agents,
        ylabel=ylabel,
        best=best,
        random=random,
        show_seeds=show_seeds,
    )
    return draw_panels(panels, title=title, path=path, confidence=confidence)


def run_panels(
    runs: Mapping[str, Any],
    *,
    cost_names: Sequence[str] = (),
    cost_descriptions: Sequence[str] = (),
    agents: Literal["worst", "mean"] | None = None,
    ylabel: str = "return",
    best: float | None = None,
    random: float | None = None,
    show_seeds: bool = True,
) -> list[Panel]:
    """Returns the panels of `plot_runs`: returns, win rates, and each cost, those that there are.

    Args:
        runs: As for `plot_runs`, like all other arguments.
        cost_names: Name of each cost.
        cost_descriptions: Meaning of each cost.
        agents: Agent that a run's line shows.
        ylabel: Meaning of the return.
        best: Highest possible return.
        random: Return of the random policy.
        show_seeds: Whether every seed has a thin line.

    Returns:
        The panels.

    Raises:
        ValueError: As for `plot_runs`.
    """
    if agents not in (None, "worst", "mean"):
        raise ValueError(f"agents is {agents!r}; allowed is one of worst, mean")
    if not runs:
        raise ValueError("no runs to draw")
    costs = {
        label: _check_costs(label, run) for label, run in runs.items() if run.costs is not None
    }
    sizes = {costs[label][2].shape if label in costs else (0, 0) for label in runs}
    have = {(run.returns is not None, run.win_rates is not None) for run in runs.values()}
    if len(sizes) > 1 or len(have) > 1:
        raise ValueError(
            f"the runs have agents and costs {sorted(sizes)}, and (returns, win rates) "
            f"{sorted(have)}; allowed is one"
        )
    ((has_returns, has_win_rates),) = have
    panels = []
    if has_returns:
        curves = {label: (run.steps, run.returns) for label, run in runs.items()}
        levels = [("best possible", best, (0, (5, 3))), ("random policy", random, (0, (1, 2)))]
        hlines = [HLine(x, label, dashes=dashes) for label, x, dashes in levels if x is not None]
        panels.append(Panel("return", ylabel, curves, hlines, show_seeds=show_seeds))
    if has_win_rates:
        curves = {label: (run.steps, run.win_rates) for label, run in runs.items()}
        meaning, ylim = "share of won episodes", (-0.02, 1.02)
        panels.append(Panel("win rate", meaning, curves, show_seeds=show_seeds, ylim=ylim))
    for k in range(next(iter(sizes))[1]):
        panels.append(
            _cost_panel(
                {label: (steps, x[..., k], y[:, k]) for label, (steps, x, y) in costs.items()},
                f"cost: {cost_names[k]}" if k < len(cost_names) else f"cost {k}",
                cost_descriptions[k] if k < len(cost_descriptions) else "cost per episode",
                agents,
            )
        )
    return panels


def _check_costs(label: str, run: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns steps ``[E]``, costs ``[seeds, E, N, K]`` and limits ``[N, K]`` as arrays."""
    steps, costs = np.asarray(run.steps, float), np.asarray(run.costs, float)
    if costs.ndim != 4 or costs.shape[1] != steps.size:
        raise ValueError(
            f"{label!r}: steps {steps.shape} and costs {costs.shape} are not [E] and [seeds, E, "
            "N, K]"
        )
    limits = np.full(costs.shape[2:], np.inf) if run.limits is None else np.asarray(run.limits)
    if limits.shape != costs.shape[2:]:
        raise ValueError(f"{label!r}: limits {limits.shape} are not [N, K] of costs {costs.shape}")
    return steps, costs, limits


def _cost_panel(
    runs: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    title: str,
    ylabel: str,
    agents: Literal["worst", "mean"] | None,
) -> Panel:
    """Returns the panel of one cost, of runs with steps, costs ``[seeds, E, N]``, limits ``[N]``.

    For the other arguments see `plot_runs`.
    """
    if agents is None and len(runs) == 1:
        ((steps, costs, limits),) = runs.values()
        count = limits.size
        levels = {f"agent {i}": limit for i, limit in enumerate(limits.tolist())}
        if count <= MAX_AGENT_LINES:
            curves = {name: (steps, costs[..., i]) for i, name in enumerate(levels)}
            return Panel(title, ylabel, curves, _limit_lines(levels), statistics.mean)
        curves = {f"mean of {count} agents": (steps, statistics.mean(costs, axis=0).T)}
        ylabel += " (mean of agents, band: cheapest to costliest agent)"
        return Panel(title, ylabel, curves, _limit_lines(levels, in_colors=False), None)
    # with unequal limits the costs are drawn less the limits, which makes them comparable
    unequal = any(np.unique(x[np.isfinite(x)]).size > 1 for _, _, x in runs.values())
    curves, levels = {}, {}
    for label, (steps, costs, limits) in runs.items():
        bounded = np.isfinite(limits)
        drawn = bounded if bounded.any() else ~bounded
        subtract = unequal and bounded.any()
        values = costs[..., drawn] - (limits[drawn] if subtract else 0.0)
        curves[label] = steps, values.mean(-1) if agents == "mean" else values.max(-1)
        levels[label] = 0.0 if subtract else float(limits[drawn][0])
    line = "mean over agents" if agents == "mean" else "worst agent"
    ylabel += f" ({line}{', less its limit' * unequal})"
    return Panel(title, ylabel, curves, _limit_lines(levels), statistics.mean)


def _limit_lines(levels: Mapping[str, float], in_colors: bool = True) -> list[HLine]:
    """Returns a line for each distinct limit of curves, named after them where limits differ.

    Args:
        levels: Label of a curve -> its limit, inf where there is none; in the order of the curves.
        in_colors: Whether a limit of one curve has the curve's color.
    """
    names = list(levels)
    styles = style_indices(names)
    lines = []
    for level in sorted(set(levels.values()) - {np.inf}):
        members = [i for i, x in enumerate(levels.values()) if x == level]
        few = ", ".join(names[i] for i in members)
        label = f" of {few if len(members) <= 3 else f'{len(members)} of {len(names)}'}"
        alone = in_colors and len(members) == 1 < len(names)
        lines.append(
            HLine(
                level,
                "limit" + label * (len(members) < len(names)),
                PALETTE[styles[names[members[0]]] % len(PALETTE)] if alone else TEXT_COLOR,
            )
        )
    return lines


def plot_metrics(
    metrics: Mapping[str, Curve],
    *,
    title: str = "",
    path: Path | str | None = None,
    columns: int = 3,
    cost_names: Sequence[str] = (),
) -> Figure:
    """Draws a grid of metrics: the mean over seeds, and a band from the least to the greatest.

    Metrics ``name/agent_0``, ``name/agent_1`` ... share one panel, a line per agent; with costs
    (``name/agent_0/cost_1``) there is one such panel per cost.

    Args:
        metrics: Name -> environment steps ``[E]`` and values ``[seeds, E]``; NaNs are left out.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        columns: Number of panels side by side.
        cost_names: Name of each cost, in order; ``cost 0`` ... without.

    Returns:
        The figure.

    Raises:
        ValueError: There are no metrics, or the lengths of steps and values differ (the message
            names the metric), or the file cannot be written.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for name, curve in metrics.items():
        panel, *parts = name.split("/")
        for part in [part for part in parts if part.startswith("cost_") and part[5:].isdigit()]:
            panel += f": {cost_label(int(part[5:]), cost_names)}"
            parts.remove(part)
        panels.setdefault(panel, {})[", ".join(parts or [panel]).replace("_", " ")] = curve
    return draw_panels(
        [Panel(x.replace("_", " "), "", curves, (), None) for x, curves in panels.items()],
        title=title,
        path=path,
        columns=columns,
        small=True,
    )


def draw_panels(
    panels: Sequence[Panel],
    *,
    title: str = "",
    path: Path | str | None = None,
    columns: int = 3,
    confidence: float = 0.95,
    small: bool = False,
) -> Figure:
    """Draws panels in a grid, with a line of words below that explains lines and bands.

    Args:
        panels: Panels, row by row.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        columns: Number of panels side by side.
        confidence: Confidence of the intervals, in (0, 1).
        small: Whether panels are small, to show many.

    Returns:
        The figure.

    Raises:
        ValueError: There are no panels, or the lengths of steps and values differ (the message
            names the curve), or the file cannot be written.

    Example:
        >>> steps, returns = [0, 100, 200], [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]]
        >>> panel = Panel("task", "return", {"liir": (steps, returns)}, [HLine(4.0, "best")])
        >>> len(draw_panels([panel, panel], title="one task, twice").axes)
        2
    """
    if not panels:
        raise ValueError("no panels to draw")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (3.4, 2.5) if small else (7.2 if columns == 1 else 5.4, 4.4)
    figure = new_figure(width * columns, height * rows)
    for position, panel in enumerate(panels, start=1):
        draw_panel(figure.add_subplot(rows, columns, position), panel, confidence, small)
    if title:
        figure.suptitle(title, fontsize=12, color=TEXT_COLOR, x=0.01, ha="left")
    note = caption(panels, confidence)
    figure.supxlabel(note, fontsize=7.5, color=MUTED_COLOR, x=0.99, ha="right")
    return save(figure, path)


def caption(panels: Sequence[Panel], confidence: float = 0.95) -> str:
    """Returns words that explain the lines and bands of panels.

    Args:
        panels: The panels.
        confidence: Confidence of the intervals, in (0, 1).

    Returns:
        A line of text.
    """
    notes: dict[str, dict[str, None]] = {}
    thin = ""
    for panel in panels:
        counts = {np.atleast_2d(values).shape[0] for _, values in panel.curves.values()}
        note = "mean, band: least to greatest"
        if panel.statistic is not None:
            name = "IQM" if panel.statistic is statistics.iqm else panel.statistic.__name__
            seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
            note = f"{name} of {seeds} seeds, band: {confidence:.0%} bootstrap interval"
            note = "one seed: no interval" if counts == {1} else note
        thin = "; thin: each seed" if panel.show_seeds and max(counts) > 1 else thin
        notes.setdefault(note, {})[panel.title.partition(":")[0]] = None
    if len(notes) == 1:
        return f"line: {next(iter(notes))}{thin}"
    return "; ".join(f"{', '.join(titles)}: {note}" for note, titles in notes.items()) + thin


def draw_panel(axes: Axes, panel: Panel, confidence: float = 0.95, small: bool = False) -> None:
    """Draws a panel on axes.

    Args:
        axes: Axes to draw on.
        panel: The panel.
        confidence: Confidence of the intervals, in (0, 1).
        small: Whether the panel is one of many: smaller words, thinner lines, fewer ticks.

    Raises:
        ValueError: The lengths of steps and values differ; the message names the curve.
    """
    for label, index in style_indices(panel.curves).items():
        steps, values = panel.curves[label]
        plot_interval(
            *(axes, steps, values, label, index),
            *(panel.show_seeds, confidence, panel.statistic, small),
        )
    for value, label, color, dashes in panel.hlines:
        axes.axhline(value, color=color, linewidth=1.3, linestyle=dashes, zorder=1)
        axes.annotate(
            label,
            (1.0, value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color=color,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},  # over curves
        )
    style_axes(axes, panel.ylabel, panel.title, small)
    axes.set_xlabel("environment steps", color=TEXT_COLOR, fontsize=8 if small else 10)
    axes.set_xlim(left=0)
    if panel.ylim is not None:
        axes.set_ylim(panel.ylim)
    if len(panel.curves) > 1 or not small:  # one run needs a name too
        beside: dict[str, Any] = dict(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        inside: dict[str, Any] = dict(loc="best", framealpha=0.85, edgecolor="none")
        place = beside if len(panel.curves) > 4 and not small else inside
        axes.legend(fontsize=7 if small else 9, handlelength=3.2, **place)


def plot_interval(
    axes: Axes,
    steps: ArrayLike,
    values: ArrayLike,
    label: str,
    index: int,
    show_seeds: bool = False,
    confidence: float = 0.95,
    statistic: statistics.Statistic | None = statistics.iqm,
    small: bool = False,
) -> None:
    """Draws one curve in the style of its index: the statistic over seeds, and its interval.

    Steps at which no seed has a value are left out.

    Args:
        axes: Axes to draw on.
        steps: Environment steps ``[E]``.
        values: Values ``[seeds, E]``, or ``[E]`` of a single seed; NaNs are left out.
        label: Name of the curve.
        index: Index of its style, from 0, see `style_indices`.
        show_seeds: Whether to draw every seed as a thin line too.
        confidence: Confidence of the interval, in (0, 1).
        statistic: Statistic over seeds; None: the mean, with a band from the least to the greatest.
        small: Whether the line is thinner.

    Raises:
        ValueError: The shapes do not fit; the message names the label.
    """
    steps, values = np.asarray(steps, float), np.atleast_2d(np.asarray(values, float))
    if steps.ndim != 1 or values.ndim != 2 or values.shape[1] != steps.size:
        raise ValueError(
            f"{label!r}: steps {steps.shape} and values {values.shape} are not [E] and [seeds, E]"
        )
    has_values = ~np.isnan(values).all(axis=0)
    if has_values.any():
        steps, values = steps[has_values], values[:, has_values]
    style: dict[str, Any] = _STYLES[index % len(_STYLES)] | {"markevery": max(1, steps.size // 10)}
    if steps.size == 1:  # shown by its marker alone
        style["marker"] = _MARKERS[index // len(PALETTE) % len(_MARKERS)]
    color, line = style["color"], style["linestyle"]
    if show_seeds and values.shape[0] > 1:
        axes.plot(steps, values.T, color=color, ls=line, linewidth=0.7, alpha=0.28, zorder=2)
    if statistic is None:
        centre = statistics.mean(values, axis=0)
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    else:
        centre, low, high = statistics.curve(values, statistic, confidence)
    axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0, zorder=3)
    # matplotlib hides a label that begins with an underscore
    label = f" {label}" if label.startswith("_") else label
    width, size = (1.5, 3) if small else (2.0, 4)
    axes.plot(steps, centre, linewidth=width, label=label, zorder=4, markersize=size, **style)


def style_axes(axes: Axes, ylabel: str, title: str, small: bool = False) -> None:
    """Sets the ticks, grid and words of axes.

    Args:
        axes: Axes to style.
        ylabel: Label of the y axis.
        title: Title of the panel.
        small: Whether the panel is one of many: smaller words, fewer ticks.
    """
    size, pad = (9, 6) if small else (12, 10)
    axes.set_title(title, fontsize=size, color=TEXT_COLOR, loc="left", pad=pad)
    label = "\n".join(textwrap.wrap(ylabel, 40))
    axes.set_ylabel(label, color=TEXT_COLOR, fontsize=8 if small else 10)
    axes.xaxis.set_major_formatter(FuncFormatter(format_steps))
    axes.xaxis.set_major_locator(MaxNLocator(4 if small else 6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4 if small else 6))
    axes.tick_params(labelsize=7.5 if small else 9, colors=TEXT_COLOR, length=3)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01, y=0.07)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")


def format_steps(value: float, _: object = None) -> str:
    """Formats environment steps for an axis: ``0``, ``500``, ``20k``, ``1.5M``, ``2B``.

    Args:
        value: Number of steps.
        _: Position of the tick, which matplotlib passes; unused.

    Returns:
        The label.
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot has been used in it."""

    def _repr_png_(self) -> bytes:
        """Returns the figure as PNG, which notebooks ask for by this name."""
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure with a canvas of its own.

    Args:
        width: Width, in inches.
        height: Height, in inches.

    Returns:
        The figure.
    """
    figure = Picture(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def check_path(path: Path | str | None, name: str = "path") -> None:
    """Checks that a figure can be written to a path; its message names the argument.

    Args:
        path: File to write; None is allowed.
        name: Name of the argument.

    Raises:
        ValueError: The suffix is of no format that figures can have, or the path is a folder.
    """
    if path is None:
        return
    if Path(path).suffix[1:].lower() not in FORMATS:
        suffixes = ", ".join(f".{suffix}" for suffix in FORMATS)
        raise ValueError(
            f"{name} is {str(path)!r}; allowed is a file's name that ends in one of {suffixes}"
        )
    if Path(path).is_dir():
        raise ValueError(f"{name} is {str(path)!r}, which is a folder; allowed is a file's name")


def save(figure: Figure, path: Path | str | None) -> Figure:
    """Turns a figure's words into plain text and writes it, in one rename, if a path is given.

    Args:
        figure: Figure to save.
        path: File to write, in the format of its suffix; None writes nothing.

    Returns:
        The same figure.

    Raises:
        ValueError: The suffix is of no format that figures can have, or the file cannot be written.
    """
    # names and units are no formulas, whatever characters are in them
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(printable(text.get_text()))
    check_path(path)
    if path is not None:
        # drawn in memory first, so that the file is complete or not there
        buffer = io.BytesIO()
        figure.savefig(buffer, format=Path(path).suffix[1:].lower())
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            atomic_io.replace_bytes(path, buffer.getvalue())
        except OSError as error:
            raise ValueError(f"path is {str(path)!r}, which cannot be written: {error}") from error
    return figure


def action_categories(
    action: ArrayLike, action_names: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Groups the agents' actions into kinds.

    Actions whose names begin with the same word (``attack 0``, ``attack 1``) are of one kind, and
    all continuous ones are.

    Args:
        action: Actions ``[T, N]`` int, or ``[T, N, A]`` where they are continuous.
        action_names: Name of each discrete action; ``action 0`` ... without.

    Returns:
        ``(numbers, kinds)``: the kind of each action ``[T, N]``, as an index into the list of the
        kinds' names.
    """
    action = np.asarray(action)
    if action.ndim > 2:
        return np.zeros(action.shape[:2], int), [""]
    kinds = [name.split()[0] for name in action_names] or [
        f"action {i}" for i in range(int(action.max(initial=0)) + 1)
    ]
    distinct_kinds = list(dict.fromkeys(kinds))
    return np.asarray([distinct_kinds.index(kind) for kind in kinds])[action], distinct_kinds


def plot_intrinsic_rewards(
    intrinsic: Any,
    action: ArrayLike,
    reward: ArrayLike,
    alive: ArrayLike,
    *,
    action_names: Sequence[str] = (),
    title: str = "",
    path: Path | str | None = None,
) -> Figure:
    """Draws the team's reward, and below it each agent's intrinsic reward, colored by action.

    With more than `MOST_PANELS` agents, one map of all intrinsic rewards is drawn instead, a row
    per agent. Steps at which an agent was out of play are shaded, in the map empty. The first step
    is number 1: it led to frame 1 of a video.

    Args:
        intrinsic: Each agent's intrinsic reward of its observation and action, ``[T, N]``.
        action: Each agent's action, ``[T, N]`` int, or ``[T, N, A]`` where actions are continuous.
        reward: Team reward of each step, ``[T]``.
        alive: Whether the agent was in play, ``[T, N]`` bool.
        action_names: Name of each discrete action, a word or a few; ``action 0`` ... without.
        title: Title above the figure.
        path: File to write it to as well, in the format of its suffix.

    Returns:
        The figure.

    Raises:
        ValueError: Shapes do not fit; the message names the argument.
    """
    intrinsic, reward = np.asarray(intrinsic, float), np.asarray(reward, float)
    alive, size = np.asarray(alive, bool), intrinsic.shape
    for name, shape, expected in (
        ("action", np.shape(action)[:2], size),
        ("reward", reward.shape, size[:1]),
        ("alive", alive.shape, size),
    ):
        if intrinsic.ndim != 2 or shape != expected:
            raise ValueError(
                f"{name} has shape {shape}, and intrinsic {size}; allowed are {expected}"
            )
    as_map = size[1] > MOST_PANELS
    heights = [1.0, 0.22 * size[1]] if as_map else [1.0, *[1.2] * size[1]]
    figure = new_figure(9.0, 1.1 + sum(heights))
    team, *panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    team.bar(1 + np.arange(len(reward)), reward, color=MUTED_COLOR, width=0.85)
    style_axes(team, "team reward", title, small=True)
    if as_map:
        _plot_map(figure, panels[0], intrinsic, alive)
    else:
        _plot_bars(figure, panels, intrinsic, alive, action_categories(action, action_names))
    panels[-1].set_xlabel("step of the episode", color=TEXT_COLOR)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return save(figure, path)


def _plot_bars(
    figure: Figure,
    panels: Sequence[Axes],
    intrinsic: np.ndarray,
    alive: np.ndarray,
    categories: tuple[np.ndarray, list[str]],
) -> None:
    """Draws a panel per agent, its bars in the colors of the kinds of action."""
    kind_numbers, kinds = _merge_rare(*categories, alive)
    colors = dict(zip(np.unique(kind_numbers[alive]).tolist(), PALETTE, strict=False))
    visible = np.where(alive, intrinsic, 0.0)
    low, high = min(visible.min(initial=0.0), 0.0), max(visible.max(initial=0.0), 0.0)
    space = 0.08 * (high - low) or 1.0
    for agent, axes in enumerate(panels):
        alive_steps = np.flatnonzero(alive[:, agent])
        bar_colors = [colors[kind] for kind in kind_numbers[alive_steps, agent].tolist()]
        axes.bar(1 + alive_steps, visible[alive_steps, agent], color=bar_colors, width=0.85)
        axes.broken_barh(
            [(0.5 + t, 1.0) for t in np.flatnonzero(~alive[:, agent]).tolist()],
            (low - space, high - low + 2 * space),
            color=_SHADE,
        )
        axes.axhline(0.0, color=TEXT_COLOR, linewidth=0.6)
        style_axes(axes, f"agent {agent}", "", small=True)
        axes.set_ylim(low - space, high + space)
    named = colors if len(kinds) > 1 else {}
    patches = [Patch(color=color, label=kinds[kind]) for kind, color in named.items()]
    if not alive.all():
        patches.append(Patch(color=_SHADE, label="(out of play)"))
    if patches:
        figure.legend(
            handles=patches,
            loc="outside right upper",
            frameon=False,
            fontsize=8,
            title="intrinsic reward of",
            title_fontsize=8,
        )


def _merge_rare(
    kind_numbers: np.ndarray, kinds: list[str], alive: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Merges the rarest kinds of action into one, so that no two share a color."""
    present_kinds, counts = np.unique(kind_numbers[alive], return_counts=True)
    if len(present_kinds) <= len(PALETTE):
        return kind_numbers, kinds
    frequent = np.sort(present_kinds[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1])
    new_number = np.full(len(kinds), len(frequent))
    new_number[frequent] = np.arange(len(frequent))
    return new_number[kind_numbers], [*(kinds[kind] for kind in frequent.tolist()), "others"]


def _plot_map(figure: Figure, axes: Axes, intrinsic: np.ndarray, alive: np.ndarray) -> None:
    """Draws the intrinsic rewards of all agents as one map, a row per agent."""
    visible = np.where(alive, intrinsic, np.nan).T
    size = float(np.nanmax(np.abs(visible), initial=0.0)) or 1.0
    extent = (0.5, visible.shape[1] + 0.5, visible.shape[0] - 0.5, -0.5)
    image = axes.imshow(
        visible,
        "RdBu",
        aspect="auto",
        vmin=-size,
        vmax=size,
        interpolation="nearest",
        extent=extent,
    )
    figure.colorbar(image, ax=axes, label="intrinsic reward")
    style_axes(axes, "agent", "", small=True)
    axes.grid(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
