"""SMAX's battles, with videos of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment, JaxMARLState
from jaxmarl_lite.types import Array, PyTree

_ALLIES, _ENEMIES, _HEALTH = "#0072B2", "#D55E00", "#009E73"

_RGBA = tuple[float, float, float, float]


class SMAXEnvironment(JaxMARLEnvironment):
    """A battle of SMAX; built by ``jaxmarl_lite.make``."""

    def animate(
        self,
        states: Sequence[JaxMARLState],
        path: str | Path,
        fps: int = 5,
        rewards: Array | np.ndarray | None = None,
    ) -> Path:
        """Writes a GIF of a list of states: units with their health, and who shoots at whom.

        Args:
            states: T states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second; the last frame stays for 1.5 seconds.
            rewards: ``[T - 1, N]`` numbers of the steps from each state to the next, such as
                intrinsic rewards, for rings around the allies, green where positive, pink where
                negative, with the agent's number. Like the shots they are those of the step that
                led to the state in the frame. Further rows are ignored.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, a path that is not ``.gif``, or too few rewards.
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
        durations = [round(1000 / fps)] * (len(frames) - 1) + [1500]  # milliseconds
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(
            path, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )
        return path

    def _window(self, states: Sequence[JaxMARLState]) -> tuple[float, float, float]:
        """Returns left, bottom and width of the smallest square that shows every living unit.

        The square has a margin, and is the same for all states.
        """
        living_positions = [
            np.asarray(s.inner.state.unit_positions)[np.asarray(s.inner.state.unit_alive)]
            for s in states
        ]
        positions = np.concatenate(living_positions)
        low, high = (
            (positions.min(0), positions.max(0)) if len(positions) else (np.zeros(2), np.ones(2))
        )
        width = float((high - low).max()) + 4.0
        x_min, y_min = ((low + high - width) / 2).tolist()
        return x_min, y_min, width

    def _rings(self, rewards: Array | np.ndarray | None) -> list[list[tuple[_RGBA, str]]]:
        """Returns the colour and label of each ally in each step: its number and its reward."""
        if rewards is None:
            return []
        from matplotlib import colormaps

        rewards = np.asarray(rewards, float)
        # one scale for the video, symmetric about 0, which is the middle of the colour map
        scale = float(np.abs(rewards).max(initial=0.0)) or 1.0
        return [
            [
                (colormaps["PiYG"](0.5 + 0.5 * x / scale), f"{i}: {x:+.2g}")
                for i, x in enumerate(row)
            ]
            for row in rewards.tolist()
        ]

    def _frame(
        self,
        state: JaxMARLState,
        step: int,
        window: tuple[float, float, float],
        rings: list[list[tuple[_RGBA, str]]],
    ) -> bytes:
        """Returns one frame as a PNG file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle

        env = self.unwrapped
        battle = jax.tree.map(np.asarray, state.inner.state)
        radii = np.asarray(env.unit_type_radiuses)[battle.unit_types]
        health = battle.unit_health / np.asarray(env.unit_type_health)[battle.unit_types]
        figure = Figure(figsize=(4.6, 4.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        x_min, y_min, width = window
        axes.set(
            xlim=(x_min, x_min + width),
            ylim=(y_min, y_min + width),
            xticks=[],
            yticks=[],
            aspect="equal",
        )
        axes.set_title(f"step {step}: {self._score(battle)}", fontsize=9, loc="left")
        for i, target in self._shots(battle):
            ends = battle.unit_positions[[i, target]].T
            axes.plot(*ends, color=self._colour(i), linewidth=1.0, alpha=0.7, zorder=1)
        for i in map(int, np.flatnonzero(battle.unit_alive)):
            (x, y), name = battle.unit_positions[i], env.unit_type_shorthands[battle.unit_types[i]]
            if i < env.num_allies and 0 < step <= len(rings):
                # the rewards of the step that led to this state
                color, label = rings[step - 1][i]
                axes.add_patch(Circle((x, y), 2.2 * radii[i], color=color, zorder=1.5))
                axes.text(x, y - 2.4 * radii[i], label, fontsize=7, ha="center", va="top", zorder=3)
            axes.add_patch(Circle((x, y), radii[i], color=self._colour(i), zorder=2))
            axes.text(x, y, name, color="white", fontsize=6, ha="center", va="center", zorder=3)
            bar = x - 0.6, x - 0.6 + 1.2 * health[i]
            axes.plot(bar, [y + radii[i] + 0.35] * 2, color=_HEALTH, linewidth=2, zorder=3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _colour(self, unit: int) -> str:
        return _ALLIES if unit < self.unwrapped.num_allies else _ENEMIES

    def _score(self, battle: PyTree) -> str:
        allies = self.unwrapped.num_allies
        return (
            f"{battle.unit_alive[:allies].sum()} allies, {battle.unit_alive[allies:].sum()} enemies"
        )

    def _shots(self, battle: PyTree) -> list[tuple[int, int]]:
        """Returns pairs (shooter, target) of the step that led to this state.

        A shooter is alive, and its target within its range.
        """
        env = self.unwrapped
        shots = []
        for i in np.flatnonzero(battle.unit_alive):
            aim = int(battle.prev_attack_actions[i]) - env.num_movement_actions
            if aim < 0:
                continue
            # enemies number their targets from the last ally backwards
            target = env.num_allies + aim if i < env.num_allies else env.num_allies - 1 - aim
            distance = np.linalg.norm(battle.unit_positions[i] - battle.unit_positions[target])
            if distance < float(env.unit_type_attack_ranges[battle.unit_types[i]]):
                shots.append((int(i), int(target)))
        return shots
