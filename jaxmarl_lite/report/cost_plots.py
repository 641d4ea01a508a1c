"""Plots of runs with costs: the returns, and beside them the agents' costs and the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxmarl_lite.report import drawing, statistics
from jaxmarl_lite.report.agents import MAX_AGENT_LINES

CostRun = tuple[ArrayLike, ArrayLike | None, ArrayLike]
"""Environment steps ``[E]``, returns ``[seeds, E]`` (None: no panel for them), and costs
``[seeds, E, N, K]``."""

_DASHES = (0, (5, 2))


def run_curves(
    label: str,
    run: CostRun,
    *,
    limits: ArrayLike | None = None,
    names: Sequence[str] = (),
    meanings: Sequence[str] = (),
    ylabel: str = "return",
    title: str = "",
    path: Path | str | None = None,
    best: float | None = None,
    random: float | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draws one run: a panel of its returns, and one per cost with the limits.

    Returns are drawn as `learning_curve` draws them. A cost is drawn as one line per agent, mean
    over seeds with its bootstrap interval; for more than `MAX_AGENT_LINES` agents as the mean over
    agents, with the band from the cheapest to the costliest agent (means over seeds).

    Args:
        label: Label of the return's line.
        run: See `CostRun`; costs per episode; NaNs are left out.
        limits: Limits ``[N, K]``, inf where there is none; None for no limits. A dashed line is
            drawn for each distinct one, in the color of its agent where the agents' limits differ.
        names: Name of each cost, heads its panel.
        meanings: Meaning of each cost with its unit, for its axis.
        ylabel: Meaning of the return, for its axis.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        best: Highest possible return, drawn as a dashed line.
        random: Return of the random policy, likewise.
        confidence: Confidence of the intervals, in (0, 1).

    Returns:
        The figure.

    Raises:
        ValueError: The shapes of the arrays do not fit; the message names the run.
    """
    steps, costs, bounds = _validate(label, run, limits)
    figure, panels = _grid(run[1] is not None, costs.shape[-1])
    if run[1] is not None:
        drawing.returns(
            panels.pop(0), {label: run[:2]}, ylabel, "return", best, random, True, confidence
        )
    for k, axes in enumerate(panels):
        draw = _plot_each_agent if costs.shape[2] <= MAX_AGENT_LINES else _plot_mean_agent
        draw(axes, steps, costs[..., k], bounds[:, k], confidence)
        _style_cost_axes(axes, k, names, _cost_meaning(k, meanings))
    text = "cost: " + (
        f"mean of seeds, band: {confidence:.0%} bootstrap interval"
        if costs.shape[2] <= MAX_AGENT_LINES
        else f"mean of {costs.shape[2]} agents, band: cheapest to costliest agent"
    )
    return _finish(figure, title, "return: IQM of seeds; " * (run[1] is not None) + text, path)


def constrained_curves(
    runs: Mapping[str, CostRun],
    *,
    limits: ArrayLike | Mapping[str, ArrayLike | None] | None = None,
    names: Sequence[str] = (),
    meanings: Sequence[str] = (),
    agents: Literal["worst", "mean"] = "worst",
    ylabel: str = "return",
    title: str = "",
    path: Path | str | None = None,
    best: float | None = None,
    random: float | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Draws several runs in one figure, to compare algorithms: a line per run in every panel.

    There is a panel of returns, drawn as `learning_curve` draws them, and one per cost. A run's
    line in a cost panel is that of its agents with a limit (of all, where none has one): for each
    seed and evaluation the costliest agent, or the mean over agents. Where the agents' limits
    differ, the line is the cost less the agent's limit, so that "worst" is the agent farthest over
    its own, and the limit is the line at 0; where runs have limits of their own, each has its line
    in the run's color. The axis says which. Lines are means over seeds with their bootstrap
    intervals.

    Args:
        runs: Label -> see `CostRun`; all with the same agents and costs, and all with returns or
            all without.
        limits: Limits ``[N, K]``, inf where there is none; None for no limits; or label -> such
            limits of that run.
        names: Name of each cost, heads its panel.
        meanings: Meaning of each cost with its unit, for its axis.
        agents: Agent that a line shows, "worst" or "mean".
        ylabel: Meaning of the return, for its axis.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        best: Highest possible return, drawn as a dashed line.
        random: Return of the random policy, likewise.
        confidence: Confidence of the intervals, in (0, 1).

    Returns:
        The figure.

    Raises:
        ValueError: There are no runs, shapes do not fit (the message names the run), or ``agents``
            is another word.
    """
    if agents not in ("worst", "mean"):
        raise ValueError(f"agents is {agents!r}; allowed is one of worst, mean")
    if not runs:
        raise ValueError("no runs to draw")
    run_limits = limits if isinstance(limits, Mapping) else dict.fromkeys(runs, limits)
    arrays = {label: _validate(label, run, run_limits[label]) for label, run in runs.items()}
    sizes = {costs.shape[2:] for _, costs, _ in arrays.values()}
    returns = {label: run[:2] for label, run in runs.items() if run[1] is not None}
    if len(sizes) > 1 or len(returns) not in (0, len(runs)):
        raise ValueError(
            f"the runs have agents and costs {sorted(sizes)}, {len(returns)} have returns; "
            "allowed is one"
        )
    figure, panels = _grid(bool(returns), sizes.pop()[1])
    if returns:
        drawing.returns(
            panels.pop(0), returns, ylabel, "return", best, random, len(runs) == 1, confidence
        )
    for k, axes in enumerate(panels):
        # with unequal limits the costs are drawn less the limits, which makes them comparable
        unequal = any(
            np.unique(bounds[np.isfinite(bounds[:, k]), k]).size > 1
            for _, _, bounds in arrays.values()
        )
        levels = {}
        for i, (label, (steps, costs, bounds)) in enumerate(arrays.items()):
            values, levels[label] = _run_line(costs[..., k], bounds[:, k], agents, unequal)
            drawing.plot_interval(axes, steps, values, label, i, False, confidence, statistics.mean)
        _plot_run_limits(axes, levels)
        line_meaning = {"worst": "worst agent", "mean": "mean over agents"}[agents]
        line_meaning += ", less its limit" * unequal
        _style_cost_axes(axes, k, names, f"{_cost_meaning(k, meanings)} ({line_meaning})")
    note = f"cost: mean of seeds; bands: {confidence:.0%} bootstrap intervals"
    return _finish(figure, title, "return: IQM of seeds; " * bool(returns) + note, path)


def _validate(
    label: str, run: CostRun, limits: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns steps ``[E]``, costs ``[seeds, E, N, K]`` and limits ``[N, K]`` as arrays."""
    steps, costs = np.asarray(run[0], float), np.asarray(run[2], float)
    if costs.ndim != 4 or costs.shape[1] != steps.size:
        raise ValueError(
            f"{label!r}: steps {steps.shape} and costs {costs.shape} are not [E] and [seeds, E, "
            "N, K]"
        )
    bounds = np.full(costs.shape[2:], np.inf) if limits is None else np.asarray(limits, float)
    if bounds.shape != costs.shape[2:]:
        raise ValueError(f"{label!r}: limits {bounds.shape} are not [N, K] of costs {costs.shape}")
    return steps, costs, bounds


def _grid(with_returns: bool, costs: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a panel for the returns, if any, and one per cost, three a row."""
    count = int(with_returns) + costs
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = drawing.new_figure(4.8 * columns, 3.9 * rows + 0.3)
    return figure, [figure.add_subplot(rows, columns, position) for position in range(1, count + 1)]


def _plot_each_agent(
    axes: Axes, steps: np.ndarray, costs: np.ndarray, limits: np.ndarray, confidence: float
) -> None:
    """Draws every agent of costs ``[seeds, E, N]`` and its limit."""
    for i in range(costs.shape[-1]):
        drawing.plot_interval(
            axes, steps, costs[..., i], f"agent {i}", i, False, confidence, statistics.mean
        )
    _plot_agent_limits(axes, limits, agent_colors=True)


def _plot_mean_agent(
    axes: Axes, steps: np.ndarray, costs: np.ndarray, limits: np.ndarray, _: float
) -> None:
    """Draws mean and range over agents of costs ``[seeds, E, N]``, and the distinct limits."""
    agents = statistics.mean(costs, axis=0)
    drawing.plot_range(axes, steps, agents.T, f"mean of {costs.shape[-1]} agents", 0)
    _plot_agent_limits(axes, limits, agent_colors=False)


def _plot_agent_limits(axes: Axes, limits: np.ndarray, agent_colors: bool) -> None:
    """Draws a dashed line for each distinct limit of ``[N]``."""
    distinct = np.unique(limits)
    for value in distinct[np.isfinite(distinct)]:
        agents = np.flatnonzero(limits == value)
        single_agent = agent_colors and agents.size == 1 and distinct.size > 1
        color = (
            drawing.PALETTE[agents[0] % len(drawing.PALETTE)]
            if single_agent
            else drawing.TEXT_COLOR
        )
        drawing.hline(
            axes,
            float(value),
            "limit" + (_agents_suffix(agents) if distinct.size > 1 else ""),
            _DASHES,
            color,
        )


def _agents_suffix(agents: np.ndarray) -> str:
    """Names the agents that share a limit, for its label."""
    if agents.size > 3:
        return f" of {agents.size} agents"
    return f" of agent{'s' * (agents.size > 1)} " + ", ".join(map(str, agents))


def _run_line(
    costs: np.ndarray, limits: np.ndarray, agents: str, subtract_limits: bool
) -> tuple[np.ndarray, float | None]:
    """Returns a run's line ``[seeds, E]`` from costs ``[seeds, E, N]``, and the level of its limit.

    The level is None where no agent has a limit.
    """
    bounded = np.isfinite(limits)
    drawn_agents = bounded if bounded.any() else np.ones_like(bounded)
    values = costs[..., drawn_agents]
    if subtract_limits and bounded.any():
        values = values - limits[drawn_agents]
    line = values.max(-1) if agents == "worst" else values.mean(-1)
    return line, None if not bounded.any() else 0.0 if subtract_limits else float(
        limits[drawn_agents][0]
    )


def _plot_run_limits(axes: Axes, levels: Mapping[str, float | None]) -> None:
    """Draws the limit of the runs, or one per run in its color where they differ."""
    if len(set(levels.values())) == 1:
        drawing.hline(axes, next(iter(levels.values())), "limit", _DASHES, drawing.TEXT_COLOR)
        return
    for i, (label, level) in enumerate(levels.items()):
        drawing.hline(
            axes, level, f"limit of {label}", _DASHES, drawing.PALETTE[i % len(drawing.PALETTE)]
        )


def _cost_meaning(k: int, meanings: Sequence[str]) -> str:
    """Returns the meaning of cost k, for its axis."""
    return meanings[k] if k < len(meanings) else "cost per episode"


def _style_cost_axes(axes: Axes, k: int, names: Sequence[str], ylabel: str) -> None:
    """Sets ticks, words and legend of a cost's panel."""
    drawing.style_axes(axes, ylabel, f"cost: {names[k]}" if k < len(names) else f"cost {k}")
    axes.set_xlabel("environment steps", color=drawing.TEXT_COLOR)
    axes.set_xlim(left=0)
    drawing.legend(axes, len(axes.get_legend_handles_labels()[0]))


def _finish(figure: Figure, title: str, note: str, path: Path | str | None) -> Figure:
    """Adds title and note, and saves the figure."""
    if title:
        figure.suptitle(title, fontsize=12, color=drawing.TEXT_COLOR, x=0.01, ha="left")
    figure.supxlabel(note, fontsize=7.5, color=drawing.MUTED_COLOR, x=0.99, ha="right")
    return drawing.save(figure, path)
