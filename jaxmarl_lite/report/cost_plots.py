"""Pictures of runs with costs: the returns, and beside them what the agents cost and the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmarl_lite.report import drawing, statistics
from jaxmarl_lite.report.agents import MAX_AGENT_LINES

CostRun = tuple[Any, Any, Any]
"""Environment steps ``[E]``, returns ``[seeds, E]`` (None: no panel for them), costs ``[seeds, E,
N, K]``."""

_DASHES = (0, (5, 2))


def run_curves(
    label: str,
    run: CostRun,
    *,
    limits: Any = None,
    names: Sequence[str] = (),
    meanings: Sequence[str] = (),
    ylabel: str = "return",
    title: str = "",
    path: Path | str | None = None,
    best: float | None = None,
    random: float | None = None,
    confidence: float = 0.95,
) -> Figure:
    """One run: a panel of its returns, as `learning_curve` draws them, and one per cost with the
    limits.

    A cost is drawn as one line per agent, mean over seeds with its bootstrap interval; for more
    than `MANY` agents as the mean over agents, with the band from the cheapest to the costliest
    agent (means over seeds).

    Args:
        label: of the return's line.
        run: see `CostRun`; costs per episode; NaNs are left out.
        limits: ``[N, K]``, inf where there is none; None for no limits. A dashed line for each
            distinct one, in the color of its agent where the agents' limits differ.
        names: a word for each cost, heads its panel.
        meanings: what each cost counts, with its unit, for its axis.
        ylabel, best, random: see `learning_curve`.
        path: where to write it as well, in the format of its suffix.
        confidence: of the intervals.

    Raises:
        ValueError: arrays whose shapes do not fit; names the run.
    """
    steps, costs, bounds = _checked(label, run, limits)
    figure, panels = _grid(run[1] is not None, costs.shape[-1])
    if run[1] is not None:
        drawing.returns(
            panels.pop(0), {label: run[:2]}, ylabel, "return", best, random, True, confidence
        )
    for k, axes in enumerate(panels):
        draw = _agents if costs.shape[2] <= MAX_AGENT_LINES else _many_agents
        draw(axes, steps, costs[..., k], bounds[:, k], confidence)
        _dress_cost(axes, k, names, _meaning(k, meanings))
    text = "cost: " + (
        f"mean of seeds, band: {confidence:.0%} bootstrap interval"
        if costs.shape[2] <= MAX_AGENT_LINES
        else f"mean of {costs.shape[2]} agents, band: cheapest to costliest agent"
    )
    return _finished(figure, title, "return: IQM of seeds; " * (run[1] is not None) + text, path)


def constrained_curves(
    runs: Mapping[str, CostRun],
    *,
    limits: Any = None,
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
    """Several runs in one picture, to compare algorithms: a panel of returns and one per cost, a
    line per run.

    A run's line in a cost panel is that of its agents with a limit (of all, where none has one):
    for each seed and evaluation the costliest agent, or the mean over agents. Where the agents'
    limits differ, what is drawn is the cost less the agent's limit, so that "worst" is the agent
    farthest over its own, and the limit is the line at 0; where runs have limits of their own, each
    has its line in the run's color. The axis says which. Lines are means over seeds with their
    bootstrap intervals; returns are as `learning_curve` draws them.

    Args:
        runs: label -> see `CostRun`; all of the same agents and costs, and all with returns or all
            without.
        limits: ``[N, K]``, inf where there is none; None for no limits; or label -> such limits of
            that run. names, meanings: a word, and a phrase with its unit, for each cost.
        agents: which agent a line is of.
        ylabel, best, random: see `learning_curve`.
        path: where to write it as well, in the format of its suffix.
        confidence: of the intervals.

    Raises:
        ValueError: no runs, shapes that do not fit, naming the run, or another word for ``agents``.
    """
    if agents not in ("worst", "mean"):
        raise ValueError(f"agents is {agents!r}; allowed is one of worst, mean")
    if not runs:
        raise ValueError("no runs to draw")
    each = limits if isinstance(limits, Mapping) else dict.fromkeys(runs, limits)
    found = {label: _checked(label, run, each[label]) for label, run in runs.items()}
    sizes = {costs.shape[2:] for _, costs, _ in found.values()}
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
        unequal = any(
            np.unique(bounds[np.isfinite(bounds[:, k]), k]).size > 1
            for _, _, bounds in found.values()
        )
        levels = {}
        for i, (label, (steps, costs, bounds)) in enumerate(found.items()):
            values, levels[label] = _one_line(costs[..., k], bounds[:, k], agents, unequal)
            drawing.plot_interval(axes, steps, values, label, i, False, confidence, statistics.mean)
        _run_limits(axes, levels)
        which = {"worst": "worst agent", "mean": "mean over agents"}[
            agents
        ] + ", less its limit" * unequal
        _dress_cost(axes, k, names, f"{_meaning(k, meanings)} ({which})")
    note = f"cost: mean of seeds; bands: {confidence:.0%} bootstrap intervals"
    return _finished(figure, title, "return: IQM of seeds; " * bool(returns) + note, path)


def _checked(label: str, run: CostRun, limits: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps ``[E]``, costs ``[seeds, E, N, K]`` and limits ``[N, K]``."""
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
    """A figure with a panel for the returns, if any, and one per cost, at most three side by
    side.
    """
    count = int(with_returns) + costs
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = drawing.new_figure(4.8 * columns, 3.9 * rows + 0.3)
    return figure, [figure.add_subplot(rows, columns, place) for place in range(1, count + 1)]


def _agents(
    axes: Axes, steps: np.ndarray, costs: np.ndarray, limits: np.ndarray, confidence: float
) -> None:
    """Every agent of costs ``[seeds, E, N]`` and its limit."""
    for i in range(costs.shape[-1]):
        drawing.plot_interval(
            axes, steps, costs[..., i], f"agent {i}", i, False, confidence, statistics.mean
        )
    _limit_lines(axes, limits, own_colours=True)


def _many_agents(
    axes: Axes, steps: np.ndarray, costs: np.ndarray, limits: np.ndarray, _: float
) -> None:
    """Mean and range over agents of costs ``[seeds, E, N]``, and the distinct limits."""
    agents = statistics.mean(costs, axis=0)
    drawing.plot_range(axes, steps, agents.T, f"mean of {costs.shape[-1]} agents", 0)
    _limit_lines(axes, limits, own_colours=False)


def _limit_lines(axes: Axes, limits: np.ndarray, own_colours: bool) -> None:
    """A dashed line for each distinct limit of ``[N]``."""
    distinct = np.unique(limits)
    for value in distinct[np.isfinite(distinct)]:
        whose = np.flatnonzero(limits == value)
        alone = own_colours and whose.size == 1 and distinct.size > 1
        color = drawing.PALETTE[whose[0] % len(drawing.PALETTE)] if alone else drawing.TEXT_COLOR
        drawing.hline(
            axes, float(value), "limit" + (_of(whose) if distinct.size > 1 else ""), _DASHES, color
        )


def _of(agents: np.ndarray) -> str:
    if agents.size > 3:
        return f" of {agents.size} agents"
    return f" of agent{'s' * (agents.size > 1)} " + ", ".join(map(str, agents))


def _one_line(
    costs: np.ndarray, limits: np.ndarray, agents: str, less: bool
) -> tuple[np.ndarray, float | None]:
    """A run's line ``[seeds, E]`` of costs ``[seeds, E, N]``, ``less`` the limits or not; the level
    of its limit.
    """
    bounded = np.isfinite(limits)
    some = bounded if bounded.any() else np.ones_like(bounded)
    values = costs[..., some]
    if less and bounded.any():
        values = values - limits[some]
    line = values.max(-1) if agents == "worst" else values.mean(-1)
    return line, None if not bounded.any() else 0.0 if less else float(limits[some][0])


def _run_limits(axes: Axes, levels: Mapping[str, float | None]) -> None:
    """The limit of the runs, or one of each run in its color where they differ."""
    if len(set(levels.values())) == 1:
        drawing.hline(axes, next(iter(levels.values())), "limit", _DASHES, drawing.TEXT_COLOR)
        return
    for i, (label, level) in enumerate(levels.items()):
        drawing.hline(
            axes, level, f"limit of {label}", _DASHES, drawing.PALETTE[i % len(drawing.PALETTE)]
        )


def _meaning(k: int, meanings: Sequence[str]) -> str:
    return meanings[k] if k < len(meanings) else "cost per episode"


def _dress_cost(axes: Axes, k: int, names: Sequence[str], ylabel: str) -> None:
    drawing.style_axes(axes, ylabel, f"cost: {names[k]}" if k < len(names) else f"cost {k}")
    axes.set_xlabel("environment steps", color=drawing.TEXT_COLOR)
    axes.set_xlim(left=0)
    drawing.legend(axes, len(axes.get_legend_handles_labels()[0]))


def _finished(figure: Figure, title: str, note: str, path: Path | str | None) -> Figure:
    if title:
        figure.suptitle(title, fontsize=12, color=drawing.TEXT_COLOR, x=0.01, ha="left")
    figure.supxlabel(note, fontsize=7.5, color=drawing.MUTED_COLOR, x=0.99, ha="right")
    return drawing.save(figure, path)
