"""Videos of JaxMARL's environments."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxmarl_lite.envs.base import check_video
from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment, JaxMARLState
from jaxmarl_lite.types import Array, PyTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

_ALLIES, _ENEMIES, _HEALTH = "#0072B2", "#D55E00", "#009E73"

_RGBA = tuple[float, float, float, float]


def write_gif(frames: Iterable[Image.Image], path: Path, fps: int) -> Path:
    """Writes frames as a GIF that repeats; its last frame stays for 1.5 seconds.

    Args:
        frames: at least one picture, all of one size.
        path: the file.
        fps: frames per second.

    Returns:
        The path.
    """
    first, *others = (frame.convert("P") for frame in frames)
    durations = [round(1000 / fps)] * len(others) + [1500]  # milliseconds
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return path


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
        path = check_video(states, path)
        if rewards is not None and len(rewards) < len(states) - 1:
            raise ValueError(
                f"animate: rewards are of {len(rewards)} steps, states of {len(states) - 1}"
            )
        window, rings = self._window(states), self._rings(rewards)
        frames = (self._frame(state, step, window, rings) for step, state in enumerate(states))
        return write_gif(frames, path, fps)

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
    ) -> Image.Image:
        """Returns one frame."""
        from matplotlib.patches import Circle

        env = self.unwrapped
        battle = jax.tree.map(np.asarray, state.inner.state)
        radii = np.asarray(env.unit_type_radiuses)[battle.unit_types]
        health = battle.unit_health / np.asarray(env.unit_type_health)[battle.unit_types]
        figure, axes = _square(window)
        axes.set_title(f"step {int(state.time)}: {self._score(battle)}", fontsize=9, loc="left")
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
        return _drawn(figure)

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


class _FilmedEnvironment(JaxMARLEnvironment):
    """An environment whose video is a picture of each state."""

    def animate(self, states: Sequence[JaxMARLState], path: str | Path, fps: int = 5) -> Path:
        """Writes a GIF of a list of states.

        Args:
            states: T states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second; the last frame stays for 1.5 seconds.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, or a path that is not ``.gif``.
        """
        path = check_video(states, path)
        return write_gif(self._frames(states), path, fps)

    def _frames(self, states: Sequence[JaxMARLState]) -> Iterable[Image.Image]:
        """Returns a picture of each state."""
        raise NotImplementedError


class ParticleEnvironment(_FilmedEnvironment):
    """Particles of MPE; built by ``jaxmarl_lite.make``.

    Its videos show landmarks, and agents with their numbers and what they say.
    """

    def _frames(self, states: Sequence[JaxMARLState]) -> Iterable[Image.Image]:
        positions = np.stack([np.asarray(state.inner.p_pos) for state in states])  # [T, E, 2]
        half = max(1.2, float(np.abs(positions).max()) + 0.2)  # particles may leave the arena
        window = (-half, -half, 2 * half)
        return (self._frame(state, window) for state in states)

    def _frame(self, state: JaxMARLState, window: tuple[float, float, float]) -> Image.Image:
        """Returns one frame."""
        from matplotlib.patches import Circle

        env = self.unwrapped
        particles = jax.tree.map(np.asarray, state.inner)
        figure, axes = _square(window)
        axes.set_title(f"step {int(state.time)}", fontsize=9, loc="left")
        for i, (x, y) in enumerate(particles.p_pos.tolist()):
            color = np.asarray(env.colour[i], float) / 255
            is_agent = i < env.num_agents
            axes.add_patch(Circle((x, y), float(env.rad[i]), color=color, zorder=1 + is_agent))
            if not is_agent:
                continue
            axes.text(x, y, str(i), fontsize=8, ha="center", va="center", zorder=3)
            if not env.silent[i] and particles.c[i].any():
                word = f"says {particles.c[i].argmax()}"
                axes.text(x, y - 1.4 * float(env.rad[i]), word, fontsize=7, ha="center", va="top")
        return _drawn(figure)


class KitchenEnvironment(_FilmedEnvironment):
    """A kitchen of Overcooked; built by ``jaxmarl_lite.make``. JaxMARL draws its videos."""

    def _frames(self, states: Sequence[JaxMARLState]) -> Iterable[Image.Image]:
        from jaxmarl.viz.overcooked_visualizer import OvercookedVisualizer
        from PIL import Image

        visualizer, screen = OvercookedVisualizer(), _Screen()
        visualizer.window = screen  # type: ignore[assignment]  # in place of a window
        for state in states:
            host_state = jax.tree.map(np.asarray, state.inner)
            # of the walls around the kitchen one is left out
            visualizer.render(self.unwrapped.agent_view_size + 1, host_state, highlight=False)
            yield Image.fromarray(screen.image).quantize()


class _Screen:
    """Takes the picture that JaxMARL would show."""

    image: np.ndarray

    def show_img(self, image: np.ndarray) -> None:
        self.image = np.array(image)


def _square(window: tuple[float, float, float]) -> tuple[Figure, Axes]:
    """Returns a figure of a square of the plane: left, bottom and width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left, bottom, width = window
    limits = dict(xlim=(left, left + width), ylim=(bottom, bottom + width))
    axes.set(**limits, xticks=[], yticks=[], aspect="equal")
    return figure, axes


def _drawn(figure: Figure) -> Image.Image:
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream)
