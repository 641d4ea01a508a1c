"""The picture of a sweep: every setting against the score, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.report import plotting

_LOG_SPAN = 8.0
"""A setting whose largest value is so many times its smallest has a logarithmic axis."""


def plot(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    metric: str,
    mode: str = "max",
    path: Path | None = None,
) -> Any:
    """Draws the points of a sweep.

    A panel for each setting shows its values against the score, with the 95 % interval over seeds
    of every point. Where there are several settings, a last panel shows each point as a line
    through all settings to its score (parallel coordinates); the best points are dark.

    Args:
        rows: a mapping for each point, the best first: its settings, and the score under
            ``metric`` with ``low`` and ``high``.
        names: names of the settings.
        metric: name of the score.
        mode: ``max`` or ``min``.
        path: file to write the figure to as well.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: the suffix of ``path`` is not supported.
    """
    plotting.check_path(path)
    several = len(names) > 1
    width = 3.4 * len(names) + (1.6 * len(names) + 2.4 if several else 0)
    figure = plotting.new_figure(width, 3.4)
    ratios = [1.0] * len(names) + ([0.5 * len(names) + 0.7] if several else [])
    axes = np.atleast_1d(figure.subplots(1, len(ratios), width_ratios=ratios))
    for axis, name in zip(axes, names, strict=False):
        _draw_setting(axis, rows, name, metric)
    axes[0].set_ylabel(f"{metric} (IQM, 95 % interval)")
    if several:
        _draw_parallel(axes[-1], rows, names, metric)
    direction = "higher" if mode == "max" else "lower"
    figure.suptitle(f"{len(rows)} points; {direction} is better", fontsize="medium")
    if path is not None:
        figure.savefig(path)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positions(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, list[str] | None]:
    """Returns where each point lies on the axis of a setting, and the ticks' labels of choices."""
    values = [row.get(name) for row in rows]
    if all(map(_is_number, values)):
        return np.asarray(values, float), None
    labels = list(dict.fromkeys(str(value) for value in values))
    return np.asarray([labels.index(str(value)) for value in values], float), labels


def _is_log(positions: np.ndarray, labels: list[str] | None) -> bool:
    """Returns whether a setting deserves a logarithmic axis."""
    low, high = positions.min(), positions.max()
    return labels is None and low > 0 and high / low >= _LOG_SPAN


def _draw_setting(axis: Any, rows: Sequence[Mapping[str, Any]], name: str, metric: str) -> None:
    """Draws the values of one setting against the score."""
    positions, labels = _positions(rows, name)
    score, low, high = (np.asarray([row[key] for row in rows]) for key in (metric, "low", "high"))
    axis.errorbar(
        positions,
        score,
        yerr=(np.maximum(score - low, 0), np.maximum(high - score, 0)),
        fmt="o",
        markersize=4,
        elinewidth=1,
        alpha=0.8,
    )
    axis.plot(positions[:1], score[:1], "o", markersize=8, fillstyle="none", color="black")
    axis.set_xlabel(name)
    if _is_log(positions, labels):
        axis.set_xscale("log")
    if labels is not None:
        axis.set_xticks(range(len(labels)), labels, rotation=20)
        axis.margins(x=0.3)
    axis.grid(alpha=0.3)


def _draw_parallel(
    axis: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str
) -> None:
    """Draws each point as a line through its settings to its score, the best ones last."""
    from matplotlib import colormaps

    columns, ends = [], []
    for name in (*names, metric):
        positions, labels = _positions(rows, name)
        is_log = name != metric and _is_log(positions, labels)
        scaled = np.log(positions) if is_log else positions
        span = scaled.max() - scaled.min()
        columns.append((scaled - scaled.min()) / span if span > 0 else np.full(len(rows), 0.5))
        ends.append(
            (labels[0], labels[-1])
            if labels is not None
            else (f"{positions.min():.3g}", f"{positions.max():.3g}")
        )
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(rows)))  # the best is darkest
    lines = np.stack(columns, 1)
    for i in reversed(range(len(rows))):
        axis.plot(range(len(lines[i])), lines[i], color=colors[i], linewidth=2 if i == 0 else 1)
    axis.set_xticks(range(len(columns)), (*names, metric), rotation=20)
    axis.set_yticks([])
    for x, (low, high) in enumerate(ends):
        axis.axvline(x, color="gray", linewidth=0.8)
        axis.annotate(low, (x, -0.02), ha="center", va="top", fontsize="x-small")
        axis.annotate(high, (x, 1.02), ha="center", va="bottom", fontsize="x-small")
    axis.set_ylim(-0.12, 1.12)
    axis.set_title("all settings; dark is better", fontsize="small")
