"""Plots of the agents' learned rewards over an episode, beside their actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from jaxmarl_lite.report import drawing

MOST_PANELS = 8
"""Up to so many agents have a panel each; more become the rows of one map."""
_SHADE = "#e4e4e4"


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
    num_actions = int(action.max(initial=0)) + 1
    names = list(action_names) or [f"action {i}" for i in range(num_actions)]
    kinds = [name.split()[0] if action_names else name for name in names]
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
    intrinsic, reward, alive = (
        np.asarray(intrinsic, float),
        np.asarray(reward, float),
        np.asarray(alive, bool),
    )
    expected = {"action": intrinsic.shape, "reward": intrinsic.shape[:1], "alive": intrinsic.shape}
    for name, shape in {
        "action": np.shape(action)[:2],
        "reward": reward.shape,
        "alive": alive.shape,
    }.items():
        if intrinsic.ndim != 2 or shape != expected[name]:
            raise ValueError(
                f"{name} has shape {shape}, and intrinsic {intrinsic.shape}; allowed are "
                f"{expected[name]}"
            )
    agents = intrinsic.shape[1]
    as_map = agents > MOST_PANELS
    heights = [1.0, 0.22 * agents] if as_map else [1.0, *[1.2] * agents]
    figure = drawing.new_figure(9.0, 1.1 + sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    steps = 1 + np.arange(len(reward))
    panels[0].bar(steps, reward, color=drawing.MUTED_COLOR, width=0.85)
    _style_panel(panels[0], "team reward")
    if as_map:
        _plot_map(figure, panels[1], intrinsic, alive)
    else:
        _plot_panels(figure, panels[1:], intrinsic, alive, action_categories(action, action_names))
    panels[-1].set_xlabel("step of the episode", color=drawing.TEXT_COLOR)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_title(title, fontsize=11, color=drawing.TEXT_COLOR, loc="left")
    return drawing.save(figure, path)


def _plot_panels(
    figure: Figure,
    panels: Sequence[Axes],
    intrinsic: np.ndarray,
    alive: np.ndarray,
    categories: tuple[np.ndarray, list[str]],
) -> None:
    """Draws a panel per agent, its bars in the colors of the kinds of action."""
    kind_numbers, kinds = _merge_rare(*categories, alive)
    present_kinds = sorted(set(kind_numbers[alive].tolist()))
    colors = dict(zip(present_kinds, drawing.PALETTE, strict=False))
    visible = np.where(alive, intrinsic, 0.0)
    low, high = min(visible.min(initial=0.0), 0.0), max(visible.max(initial=0.0), 0.0)
    space = 0.08 * (high - low) or 1.0
    for agent, axes in enumerate(panels):
        # steps at which the agent is in play, and at which it is out of play
        alive_steps, dead_steps = (
            np.flatnonzero(is_in) for is_in in (alive[:, agent], ~alive[:, agent])
        )
        bar_colors = [colors[kind] for kind in kind_numbers[alive_steps, agent].tolist()]
        axes.bar(1 + alive_steps, visible[alive_steps, agent], color=bar_colors, width=0.85)
        axes.broken_barh(
            [(0.5 + t, 1.0) for t in dead_steps.tolist()],
            (low - space, high - low + 2 * space),
            color=_SHADE,
        )
        axes.axhline(0.0, color=drawing.TEXT_COLOR, linewidth=0.6)
        axes.set_ylim(low - space, high + space)
        _style_panel(axes, f"agent {agent}")
    patches = (
        [Patch(color=colors[kind], label=kinds[kind]) for kind in present_kinds]
        if len(kinds) > 1
        else []
    )
    patches += [] if alive.all() else [Patch(color=_SHADE, label="(out of play)")]
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
    if len(present_kinds) <= len(drawing.PALETTE):
        return kind_numbers, kinds
    frequent = np.sort(
        present_kinds[np.argsort(-counts, kind="stable")][: len(drawing.PALETTE) - 1]
    )
    new_number = np.full(len(kinds), len(frequent))
    new_number[frequent] = np.arange(len(frequent))
    return new_number[kind_numbers], [*(kinds[kind] for kind in frequent.tolist()), "others"]


def _plot_map(figure: Figure, axes: Axes, intrinsic: np.ndarray, alive: np.ndarray) -> None:
    """Draws the intrinsic rewards of all agents as one map, a row per agent."""
    visible = np.where(alive, intrinsic, np.nan).T
    size = float(np.nanmax(np.abs(visible), initial=0.0)) or 1.0
    image = axes.imshow(
        visible,
        aspect="auto",
        cmap="RdBu",
        vmin=-size,
        vmax=size,
        interpolation="nearest",
        extent=(0.5, visible.shape[1] + 0.5, visible.shape[0] - 0.5, -0.5),
    )
    figure.colorbar(image, ax=axes, label="intrinsic reward")
    _style_panel(axes, "agent")
    axes.grid(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _style_panel(axes: Axes, ylabel: str) -> None:
    """Sets ticks and the y label of a panel."""
    drawing.style_axes(axes, ylabel, "", small=True)
    axes.set_ylabel(ylabel, fontsize=8, color=drawing.TEXT_COLOR)
