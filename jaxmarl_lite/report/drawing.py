"""Parts of every figure: axes, lines with bands, levels and words.

No display and no global state is needed.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxmarl_lite.report import atomic_io, statistics
from jaxmarl_lite.report.text import printable

Curve = tuple[Any, Any]
"""Environment steps ``[E]`` and values ``[seeds, E]``."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
"""Colors that differ with any kind of color blindness (Okabe and Ito 2008), without the pale
yellow."""

FORMATS = ("png", "pdf", "svg", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp", "svgz")
"""Suffixes of the files that a figure can be written to."""

_LINES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

TEXT_COLOR, MUTED_COLOR = "#262626", "#8c8c8c"
"""Colors of words and axes, and of what is less important."""


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


def validate(label: str, run: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and values of a run as float arrays.

    Args:
        label: Name of the run, for the error message.
        run: See `Curve`; values of a single seed may be ``[E]``.

    Returns:
        ``(steps, values)``, ``[E]`` and ``[seeds, E]``.

    Raises:
        ValueError: The shapes do not fit; the message names the label.
    """
    steps, values = np.asarray(run[0], float), np.atleast_2d(np.asarray(run[1], float))
    if steps.ndim != 1 or values.ndim != 2 or values.shape[1] != steps.size:
        raise ValueError(
            f"{label!r}: steps {steps.shape} and values {values.shape} are not [E] and [seeds, E]"
        )
    return steps, values


def curve_style(index: int, points: int = 2) -> dict[str, Any]:
    """Returns the color, line and marker that distinguish the curve of this index from others.

    Args:
        index: Number of the curve in its panel. Colors repeat after seven curves, with another
            line; lines after four times as many, with another marker; 196 curves differ.
        points: Number of points of the curve; a lone one is shown by its marker alone.

    Returns:
        Keywords of ``Axes.plot``.
    """
    lines, markers = index // len(PALETTE), index // (len(PALETTE) * len(_LINES))
    marker = (
        _MARKERS[(lines if points == 1 else markers - 1) % len(_MARKERS)]
        if points == 1 or markers
        else ""
    )
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": _LINES[lines % len(_LINES)],
        "marker": marker,
        "markevery": max(1, points // 10),
    }


def legend_label(text: str) -> str:
    """Returns the text as a label; matplotlib hides one that begins with an underscore.

    Args:
        text: Label.

    Returns:
        The label, with a space in front where it begins with an underscore.
    """
    return f" {text}" if text.startswith("_") else text


def plot_interval(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    label: str,
    index: int,
    seeds: bool,
    confidence: float,
    statistic: statistics.Statistic = statistics.iqm,
) -> None:
    """Draws one run in the style of its index: the statistic over seeds, and its interval.

    Args:
        axes: Axes to draw on.
        steps: Environment steps ``[E]``.
        values: Values ``[seeds, E]``; NaNs are left out.
        label: Name of the run.
        index: Number of the run in its panel, from 0.
        seeds: Whether to draw every seed as a thin line too.
        confidence: Confidence of the interval, in (0, 1).
        statistic: Statistic over seeds.
    """
    style = curve_style(index, steps.size)
    if seeds and values.shape[0] > 1:
        for line in values:
            axes.plot(
                steps,
                line,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=0.7,
                alpha=0.28,
                zorder=2,
            )
    centre, low, high = statistics.curve(values, statistic, confidence)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=3)
    axes.plot(
        steps, centre, linewidth=2.0, label=legend_label(label), zorder=4, markersize=4, **style
    )


def plot_range(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, index: int) -> None:
    """Draws one metric: its mean over seeds, and the band from least to greatest.

    Steps at which no seed has a value are left out.

    Args:
        axes: Axes to draw on.
        steps: Environment steps ``[E]``.
        values: Values ``[seeds, E]``; NaNs are left out.
        label: Name of the line.
        index: Number of the line in its panel, from 0.
    """
    has_values = ~np.all(np.isnan(values), axis=0)
    steps, values = steps[has_values], values[:, has_values]
    if steps.size == 0:
        return
    if values.shape[0] > 1:
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        axes.fill_between(
            steps, low, high, color=curve_style(index)["color"], alpha=0.2, linewidth=0
        )
    mean = np.nanmean(values, axis=0)
    axes.plot(
        steps,
        mean,
        linewidth=1.5,
        label=legend_label(label),
        markersize=3,
        **curve_style(index, steps.size),
    )


def hline(
    axes: Axes, value: float | None, label: str, dashes: Any, color: str = MUTED_COLOR
) -> None:
    """Draws a dashed level across the axes, its name on the line's right end.

    Args:
        axes: Axes to draw on.
        value: Level; None draws nothing.
        label: Name of the level.
        dashes: Line style of matplotlib.
        color: Color of the line and, where it is not `MUTED_COLOR`, of the name.
    """
    if value is None:
        return
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
        color="#6b6b6b" if color == MUTED_COLOR else color,
        zorder=5,
    )


def style_axes(axes: Axes, ylabel: str, title: str, small: bool = False) -> None:
    """Sets the ticks, grid and words of axes.

    Args:
        axes: Axes to style.
        ylabel: Label of the y axis.
        title: Title of the panel.
        small: Whether the panel is one of many: smaller words, fewer ticks.
    """
    axes.set_title(
        title, fontsize=9 if small else 12, color=TEXT_COLOR, loc="left", pad=6 if small else 10
    )
    axes.set_ylabel("\n".join(textwrap.wrap(ylabel, 40)), color=TEXT_COLOR)
    axes.xaxis.set_major_formatter(FuncFormatter(format_steps))
    axes.xaxis.set_major_locator(MaxNLocator(4 if small else 6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4 if small else 6))
    axes.tick_params(labelsize=7.5 if small else 9, colors=TEXT_COLOR, length=3)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01, y=0.07)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b0b0b0")


def returns(
    axes: Axes,
    runs: Mapping[str, Curve],
    ylabel: str,
    title: str,
    best: float | None,
    random: float | None,
    seeds: bool,
    confidence: float,
) -> None:
    """Draws the returns of runs: IQM over seeds with its interval, and the known levels.

    Args:
        axes: Axes to draw on.
        runs: Label -> environment steps ``[E]`` and returns ``[seeds, E]``.
        ylabel: Label of the y axis.
        title: Title of the panel.
        best: Highest possible return; None draws no level.
        random: Return of the random policy; None draws no level.
        seeds: Whether to draw every seed as a thin line too.
        confidence: Confidence of the intervals, in (0, 1).

    Raises:
        ValueError: The shapes of a run do not fit; the message names the label.
    """
    for i, (label, run) in enumerate(runs.items()):
        steps, values = validate(label, run)
        plot_interval(axes, steps, values, label, i, seeds, confidence)
    hline(axes, best, "best possible", (0, (5, 3)))
    hline(axes, random, "random policy", (0, (1, 2)))
    style_axes(axes, ylabel, title)
    axes.set_xlabel("environment steps", color=TEXT_COLOR)
    axes.set_xlim(left=0)
    legend(axes, len(runs))


def legend(axes: Axes, runs: int) -> None:
    """Adds a legend: inside the axes while it is short, to the right of them otherwise.

    One run needs a name too.

    Args:
        axes: Axes with labelled lines.
        runs: Number of labelled lines.
    """
    if runs > 4:
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=9,
            handlelength=3.2,
        )
    else:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)


def caption(figure: Figure, counts: list[int], seeds: bool, confidence: float) -> None:
    """Adds a small line that explains line and band.

    Args:
        figure: Figure to caption.
        counts: Number of seeds of each run.
        seeds: Whether every seed is drawn as a thin line too.
        confidence: Confidence of the intervals, in (0, 1).
    """
    several = sorted(set(counts))
    count = f"{several[0]}" if len(several) == 1 else f"{several[0]} to {several[-1]}"
    text = f"line: IQM of {count} seeds; band: {confidence:.0%} bootstrap interval" + (
        "; thin: each seed" * seeds
    )
    text = "one seed: no interval" if several == [1] else text
    figure.supxlabel(text, fontsize=7.5, color=MUTED_COLOR, x=0.99, ha="right")


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
