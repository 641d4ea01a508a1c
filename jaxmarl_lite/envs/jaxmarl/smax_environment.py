"""SMAX's battles, with a film of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment, JaxMARLState

_ALLIES, _ENEMIES, _HEALTH = "#0072B2", "#D55E00", "#009E73"


class SMAXEnvironment(JaxMARLEnvironment):
    """A battle of SMAX; built by ``jaxmarl_lite.make``."""

    def animate(
        self,
        states: Sequence[JaxMARLState],
        path: str | Path,
        fps: int = 5,
        rewards: Any | None = None,
    ) -> Path:
        """Write a GIF of a list of states of one world: units with their health, and who shoots at
        whom.

        fps: frames per second. rewards: ``[T, N]`` numbers of the steps from each state to the
        next, such as intrinsic rewards, for rings around the allies, green where positive, pink
        where negative, with the agent's number. Like the shots they are those of the step that led
        to what is seen. Raises ValueError for an empty list, a path that is not ``.gif``, or
        rewards that are too few.
        """
        from PIL import Image

        path = Path(path)
        if not states:
            raise ValueError("animate: states is empty; give at least one state")
        if path.suffix != ".gif":
            raise ValueError(f"animate: path must end in .gif, not {path.name!r}")
        if rewards is not None and len(rewards) < len(states) - 1:
            raise ValueError(
                f"animate: rewards are of {len(rewards)} steps, states of {len(states) - 1}"
            )
        window, rings = self._window(states), self._rings(rewards)
        frames = [
            Image.open(io.BytesIO(self._frame(state, step, window, rings))).convert("P")
            for step, state in enumerate(states)
        ]
        times = [round(1000 / fps)] * (len(frames) - 1) + [1500]  # the end stays a while
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
        return path

    def _window(self, states: Sequence[JaxMARLState]) -> tuple[float, float, float]:
        """The smallest square, with a margin, that shows every unit as long as it lives: left,
        bottom, width.
        """
        places = [
            np.asarray(s.inner.state.unit_positions)[np.asarray(s.inner.state.unit_alive)]
            for s in states
        ]
        seen = np.concatenate(places)
        low, high = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(2), np.ones(2))
        width = float((high - low).max()) + 4.0
        left, bottom = ((low + high - width) / 2).tolist()
        return left, bottom, width

    def _rings(self, rewards: Any | None) -> list[list[tuple[Any, str]]]:
        """Colour and words of each ally in each step: its number, and its reward."""
        if rewards is None:
            return []
        from matplotlib import colormaps

        rewards = np.asarray(rewards, float)
        most = float(np.abs(rewards).max(initial=0.0)) or 1.0
        return [
            [(colormaps["PiYG"](0.5 + 0.5 * x / most), f"{i}: {x:+.2g}") for i, x in enumerate(row)]
            for row in rewards.tolist()
        ]

    def _frame(
        self,
        state: JaxMARLState,
        step: int,
        window: tuple[float, float, float],
        rings: list[list[tuple[Any, str]]],
    ) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle

        env = self.unwrapped
        world = jax.tree.map(np.asarray, state.inner.state)
        radii = np.asarray(env.unit_type_radiuses)[world.unit_types]
        health = world.unit_health / np.asarray(env.unit_type_health)[world.unit_types]
        figure = Figure(figsize=(4.6, 4.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        left, bottom, width = window
        axes.set(
            xlim=(left, left + width),
            ylim=(bottom, bottom + width),
            xticks=[],
            yticks=[],
            aspect="equal",
        )
        axes.set_title(f"step {step}: {self._score(world)}", fontsize=9, loc="left")
        for i, target in self._shots(world):
            ends = world.unit_positions[[i, target]].T
            axes.plot(*ends, color=self._colour(i), linewidth=1.0, alpha=0.7, zorder=1)
        for i in map(int, np.flatnonzero(world.unit_alive)):
            (x, y), name = world.unit_positions[i], env.unit_type_shorthands[world.unit_types[i]]
            if i < env.num_allies and 0 < step <= len(rings):
                color, words = rings[step - 1][i]
                axes.add_patch(Circle((x, y), 2.2 * radii[i], color=color, zorder=1.5))
                axes.text(x, y - 2.4 * radii[i], words, fontsize=7, ha="center", va="top", zorder=3)
            axes.add_patch(Circle((x, y), radii[i], color=self._colour(i), zorder=2))
            axes.text(x, y, name, color="white", fontsize=6, ha="center", va="center", zorder=3)
            bar = x - 0.6, x - 0.6 + 1.2 * health[i]
            axes.plot(bar, [y + radii[i] + 0.35] * 2, color=_HEALTH, linewidth=2, zorder=3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _colour(self, unit: int) -> str:
        return _ALLIES if unit < self.unwrapped.num_allies else _ENEMIES

    def _score(self, world: Any) -> str:
        allies = self.unwrapped.num_allies
        return (
            f"{world.unit_alive[:allies].sum()} allies, {world.unit_alive[allies:].sum()} enemies"
        )

    def _shots(self, world: Any) -> list[tuple[int, int]]:
        """Who aimed at whom in the step that led here, among units that live and reach."""
        env = self.unwrapped
        shots = []
        for i in np.flatnonzero(world.unit_alive):
            aim = int(world.prev_attack_actions[i]) - env.num_movement_actions
            if aim < 0:
                continue
            target = env.num_allies + aim if i < env.num_allies else env.num_allies - 1 - aim
            gap = np.linalg.norm(world.unit_positions[i] - world.unit_positions[target])
            if gap < float(env.unit_type_attack_ranges[world.unit_types[i]]):
                shots.append((int(i), int(target)))
        return shots
