"""Learning curves and panels of metrics, drawn with matplotlib's objects.

No display and no global state is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxmarl_lite.report import drawing
from jaxmarl_lite.report.cost_plots import constrained_curves as constrained_curves
from jaxmarl_lite.report.cost_plots import run_curves as run_curves
from jaxmarl_lite.report.drawing import PALETTE as PALETTE
from jaxmarl_lite.report.drawing import Curve as Curve
from jaxmarl_lite.report.drawing import format_steps as format_steps


def learning_curve(
    runs: Mapping[str, Curve],
    *,
    ylabel: str = "return",
    title: str = "",
    path: Path | str | None = None,
    best: float | None = None,
    random: float | None = None,
    seeds: bool = True,
    confidence: float = 0.95,
    wins: Mapping[str, Curve] | None = None,
) -> Figure:
    """Draws the IQM over seeds with its pointwise bootstrap interval, one line per run.

    Args:
        runs: Label -> environment steps ``[E]`` and returns ``[seeds, E]``; NaNs are left out.
        ylabel: Meaning of the return, for its axis.
        title: Title of the figure.
        path: File to write it to as well, in the format of its suffix.
        best: Highest possible return, drawn as a dashed line.
        random: Return of the random policy, likewise.
        seeds: Whether to draw every seed as a thin line too.
        confidence: Confidence of the interval, in (0, 1).
        wins: Label -> environment steps and win rates, for a second panel.

    Returns:
        The figure.

    Raises:
        ValueError: There are no runs, or the lengths of steps and values differ (the message names
            the run), or the file cannot be written.
    """
    if not runs:
        raise ValueError("no runs to draw")
    figure = drawing.new_figure(12.0 if wins else 7.2, 4.4)
    panels = figure.subplots(1, 2 if wins else 1, squeeze=False)[0]
    drawing.returns(panels[0], runs, ylabel, title, best, random, seeds, confidence)
    if wins:
        drawing.returns(panels[1], wins, "share of won episodes", "", None, None, seeds, confidence)
        panels[1].set_ylim(-0.02, 1.02)
    drawing.caption(
        figure, [np.atleast_2d(values).shape[0] for _, values in runs.values()], seeds, confidence
    )
    return drawing.save(figure, path)


def metric_panels(
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
    if not metrics:
        raise ValueError("no metrics to draw")
    panels: dict[str, dict[str, Curve]] = {}
    for name, run in metrics.items():
        panel, line = _panel_of(name, cost_names)
        panels.setdefault(panel, {})[line] = run
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = drawing.new_figure(3.3 * columns + 0.4, 2.3 * rows + (0.7 if title else 0.4))
    for position, (panel, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        for i, (line, run) in enumerate(lines.items()):
            steps, values = drawing.validate(f"{panel}/{line}" if line else panel, run)
            drawing.plot_range(axes, steps, values, line, i)
        drawing.style_axes(axes, "", panel.replace("_", " "), small=True)
        if position > len(panels) - columns:
            axes.set_xlabel("environment steps", fontsize=8)
        if len(lines) > 1:
            axes.legend(fontsize=7, frameon=False, handlelength=1.2, borderaxespad=0.2)
    if title:
        figure.suptitle(title, fontsize=12, color=drawing.TEXT_COLOR, x=0.01, ha="left")
    return drawing.save(figure, path)


def _panel_of(name: str, cost_names: Sequence[str]) -> tuple[str, str]:
    """Returns the panel of a metric and the name of its line there."""
    base, *parts = name.split("/")
    for part in [part for part in parts if part.startswith("cost_") and part[5:].isdigit()]:
        index = int(part[5:])
        base += f": {cost_names[index]}" if index < len(cost_names) else f": cost {index}"
        parts.remove(part)
    return base, ", ".join(parts).replace("_", " ")
