"""What the agents' learned rewards say over an episode, beside what the agents did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jaxmarl_lite.report import drawing

MOST_PANELS = 8
"""Agents up to which each has a panel; more become the rows of one map."""
_SHADE = "#e4e4e4"


def action_categories(
    action: Any, action_names: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """What the agents did as kinds of action: ``[T, N]`` numbers of a list of words.

    Actions whose names begin with the same word (``attack 0``, ``attack 1``) are of one kind, and
    continuous ones.
    """
    action = np.asarray(action)
    if action.ndim > 2:
        return np.zeros(action.shape[:2], int), [""]
    most = int(action.max(initial=0)) + 1
    names = list(action_names) or [f"action {i}" for i in range(most)]
    words = [name.split()[0] if action_names else name for name in names]
    listed = list(dict.fromkeys(words))
    return np.asarray([listed.index(word) for word in words])[action], listed


def plot_intrinsic_rewards(
    intrinsic: Any,
    action: Any,
    reward: Any,
    alive: Any,
    *,
    action_names: Sequence[str] = (),
    title: str = "",
    path: Path | str | None = None,
) -> Figure:
    """The team's reward, and below it a panel per agent: its intrinsic reward, in the color of what
    it did.

    With more than `MOST_PANELS` agents, one map of all intrinsic rewards instead, a row per agent.
    Steps at which an agent was out of play are shaded, in the map empty. The first step is number
    1: it led to frame 1 of a film.

    Args:
        intrinsic: each agent's intrinsic reward of what it saw and did, ``[T, N]``.
        action: what it did, ``[T, N]`` int, or ``[T, N, A]`` where actions are continuous.
        reward: the team's reward of each step, ``[T]``.
        alive: whether the agent was in play, ``[T, N]`` bool.
        action_names: a word, or a few, for each discrete action; ``action 0`` ... without.
        title: above the picture.
        path: where to write it as well, in the format of its suffix.

    Raises:
        ValueError: shapes that do not fit, naming the argument.
    """
    intrinsic, reward, alive = (
        np.asarray(intrinsic, float),
        np.asarray(reward, float),
        np.asarray(alive, bool),
    )
    wanted = {"action": intrinsic.shape, "reward": intrinsic.shape[:1], "alive": intrinsic.shape}
    for name, found in {
        "action": np.shape(action)[:2],
        "reward": reward.shape,
        "alive": alive.shape,
    }.items():
        if intrinsic.ndim != 2 or found != wanted[name]:
            raise ValueError(
                f"{name} has shape {found}, and intrinsic {intrinsic.shape}; allowed are "
                f"{wanted[name]}"
            )
    agents = intrinsic.shape[1]
    many = agents > MOST_PANELS
    heights = [1.0, 0.22 * agents] if many else [1.0, *[1.2] * agents]
    figure = drawing.new_figure(9.0, 1.1 + sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    steps = 1 + np.arange(len(reward))
    panels[0].bar(steps, reward, color=drawing.MUTED_COLOR, width=0.85)
    _dress(panels[0], "team reward")
    if many:
        _map(figure, panels[1], intrinsic, alive)
    else:
        _rows(figure, panels[1:], intrinsic, alive, action_categories(action, action_names))
    panels[-1].set_xlabel("step of the episode", color=drawing.TEXT_COLOR)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_title(title, fontsize=11, color=drawing.TEXT_COLOR, loc="left")
    return drawing.save(figure, path)


def _rows(
    figure: Figure,
    panels: Any,
    intrinsic: np.ndarray,
    alive: np.ndarray,
    did: tuple[np.ndarray, list[str]],
) -> None:
    done, words = _merge_rare(*did, alive)
    seen = sorted(set(done[alive].tolist()))
    colors = dict(zip(seen, drawing.PALETTE, strict=False))
    shown = np.where(alive, intrinsic, 0.0)
    low, high = min(shown.min(initial=0.0), 0.0), max(shown.max(initial=0.0), 0.0)
    space = 0.08 * (high - low) or 1.0
    for agent, axes in enumerate(panels):
        there, gone = (np.flatnonzero(each) for each in (alive[:, agent], ~alive[:, agent]))
        painted = [colors[kind] for kind in done[there, agent].tolist()]
        axes.bar(1 + there, shown[there, agent], color=painted, width=0.85)
        axes.broken_barh(
            [(0.5 + t, 1.0) for t in gone.tolist()],
            (low - space, high - low + 2 * space),
            color=_SHADE,
        )
        axes.axhline(0.0, color=drawing.TEXT_COLOR, linewidth=0.6)
        axes.set_ylim(low - space, high + space)
        _dress(axes, f"agent {agent}")
    patches = (
        [Patch(color=colors[kind], label=words[kind]) for kind in seen] if len(words) > 1 else []
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
    done: np.ndarray, words: list[str], alive: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Kinds of action, the rarest of them as one, so that no two share a color."""
    seen, often = np.unique(done[alive], return_counts=True)
    if len(seen) <= len(drawing.PALETTE):
        return done, words
    kept = np.sort(seen[np.argsort(-often, kind="stable")][: len(drawing.PALETTE) - 1])
    place = np.full(len(words), len(kept))
    place[kept] = np.arange(len(kept))
    return place[done], [*(words[kind] for kind in kept.tolist()), "others"]


def _map(figure: Figure, axes: Axes, intrinsic: np.ndarray, alive: np.ndarray) -> None:
    shown = np.where(alive, intrinsic, np.nan).T
    size = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
    image = axes.imshow(
        shown,
        aspect="auto",
        cmap="RdBu",
        vmin=-size,
        vmax=size,
        interpolation="nearest",
        extent=(0.5, shown.shape[1] + 0.5, shown.shape[0] - 0.5, -0.5),
    )
    figure.colorbar(image, ax=axes, label="intrinsic reward")
    _dress(axes, "agent")
    axes.grid(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _dress(axes: Axes, ylabel: str) -> None:
    drawing.style_axes(axes, ylabel, "", small=True)
    axes.set_ylabel(ylabel, fontsize=8, color=drawing.TEXT_COLOR)
