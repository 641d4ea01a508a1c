"""Videos of a robot by MuJoCo's own renderer, without a window.

Without OpenGL its path from above is drawn.

Walls, bomb and box are drawn where the costs have them; while a step costs something the robot is
red and the frame has a red edge. A clock shows the seconds since the episode began, and how much
faster than real time the video runs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.mujoco import cost_functions
from jaxmarl_lite.envs.mujoco.cost_functions import (
    BombCost,
    CorridorCost,
    CostFunction,
    MovingHazardCost,
)
from jaxmarl_lite.envs.mujoco.models import mujoco

_SIZE = (720, 400)
"""Width and height of a video (pixels)."""
_MAX_FRAMES, _FPS = 300, 25
_CAMERA = Path(__file__).with_name("render_worker.py")


class Episode(NamedTuple):
    """An episode of F states, as a video shows it.

    Attributes:
        qpos: ``[F, nq]``, generalized positions.
        path: ``[F, 2]``, x of the first root, and its y or its height (m).
        seconds: ``[F]``, time since the episode began (s).
        hazard_x: ``[F]``, position of the bomb or the box along x (m).
        has_cost: ``[F]`` bool, whether the step that led to the state cost any agent anything.
    """

    qpos: np.ndarray
    path: np.ndarray
    seconds: np.ndarray
    hazard_x: np.ndarray
    has_cost: np.ndarray


def write_video(
    name: str,
    model_spec: Any,
    danger: CostFunction | None,
    episode: Episode,
    step_seconds: float,
    path: Path,
) -> Path:
    """Writes a video of an episode.

    Where no OpenGL is available, this warns and writes the path from above as ``.png``.

    Args:
        name: Name of the environment.
        model_spec: The robot's `mujoco.MjSpec`; it is changed.
        danger: Cost of the hazard; None without costs.
        episode: The episode.
        step_seconds: Duration of a step (s).
        path: File to write, ``.gif`` or ``.mp4``.

    Returns:
        The file that was written.

    Raises:
        ValueError: The file cannot be written.
    """
    num_states = len(episode.qpos)
    stride = math.ceil(num_states / _MAX_FRAMES)
    shown = Episode(*(values[::stride] for values in episode))
    # a frame is red where any step since the frame before it had a cost
    costly = [
        episode.has_cost[max(0, i - stride + 1) : i + 1].any() for i in range(0, num_states, stride)
    ]
    try:
        frames = _render_frames(model_spec, danger, shown._replace(has_cost=np.array(costly)))
    except subprocess.CalledProcessError as error:
        error_lines = (error.stderr or "").strip().splitlines()
        warnings.warn(
            f"MuJoCo could not draw ({error_lines[-1] if error_lines else error}); where "
            "OpenGL is missing, MUJOCO_GL=egl or MUJOCO_GL=osmesa may help. The path is drawn "
            "instead",
            stacklevel=3,
        )
        return write_path(name, danger, episode, path.with_suffix(".png"))
    speed = stride * step_seconds * _FPS
    clock_texts = [f"{seconds:.1f} s, {speed:.2g} times as fast" for seconds in shown.seconds]
    _save_video(_with_clock(frames, clock_texts), path)
    return path


def _render_frames(model_spec: Any, danger: CostFunction | None, episode: Episode) -> np.ndarray:
    """Renders the frames in a process of its own, ``[F, height, width, 3]``."""
    model = _scene_model(model_spec, danger)
    robot = [
        i
        for i in range(model.ngeom)
        if model.geom_bodyid[i] > 0 and not model.geom(i).name.startswith("danger")
    ]
    hazard = np.zeros((len(episode.qpos), 3))
    if isinstance(danger, MovingHazardCost):
        hazard[:, 0], hazard[:, 2] = episode.hazard_x, 1.4 if isinstance(danger, BombCost) else 0.3
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("model.mjb", "video.npz", "frames.npy")]
        mujoco.mj_saveModel(model, files[0])
        np.savez(
            files[1],
            qpos=episode.qpos,
            costly=episode.has_cost,
            robot=robot,
            danger=hazard,
            view=_camera_view(danger),
            size=_SIZE,
        )
        environment_variables = dict(os.environ)
        if sys.platform.startswith("linux") and not environment_variables.get("DISPLAY"):
            environment_variables.setdefault("MUJOCO_GL", "egl")
        command = [sys.executable, str(_CAMERA), *files]
        subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment_variables
        )
        return np.load(files[2])


def _camera_view(danger: CostFunction | None) -> tuple[float, float, float, float]:
    """Returns distance, azimuth and elevation of the camera that follows the robot.

    The fourth number is how far before the robot the camera looks (m).
    """
    if isinstance(danger, CorridorCost):
        return 14.0, 155.0, -30.0, 0.0
    if isinstance(danger, BombCost):
        # so far that the bomb comes into sight where it begins to cost
        return 8.0, 90.0, -12.0, 4.0
    return 5.0, 90.0, -12.0, 1.5 if isinstance(danger, MovingHazardCost) else 0.0


def _scene_model(spec: Any, danger: CostFunction | None) -> Any:
    """Returns the robot's model with visible walls, a bomb or a box, which touch nothing."""
    spec.compiler.settotalmass = -1
    appearance: dict[str, Any] = dict(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        contype=0,
        conaffinity=0,
        rgba=[0.95, 0.5, 0.3, 0.8],
        mass=0.001,
    )
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.5] * 3, [0.5] * 3
    spec.visual.global_.offwidth, spec.visual.global_.offheight = _SIZE
    for texture in spec.textures:
        if texture.builtin == mujoco.mjtBuiltin.mjBUILTIN_CHECKER:
            texture.rgb1, texture.rgb2 = [0.74, 0.78, 0.74], [0.66, 0.7, 0.66]
    if isinstance(danger, CorridorCost):
        ends = (-20.0, *([0.0] if danger.level else []), 20.0, 60.0, 100.0, 200.0)
        for i, (start, end) in enumerate(pairwise(ends)):
            for side in (-1.0, 1.0):
                start_y, end_y = (
                    float(cost_functions.centre_line(jnp.asarray(x), danger.level))
                    + side * danger.half_width
                    for x in (start, end)
                )
                spec.worldbody.add_geom(
                    name=f"danger_{i}_{side:g}",
                    pos=[(start + end) / 2, (start_y + end_y) / 2, 0.7],
                    size=[math.hypot(end - start, end_y - start_y) / 2, 0.05, 0.7],
                    quat=_quaternion_about_z(math.atan2(end_y - start_y, end - start)),
                    **appearance,
                )
    elif isinstance(danger, MovingHazardCost):
        body = spec.worldbody.add_body(name="danger", mocap=True)
        size = [0.1, 2.3, 1.3] if isinstance(danger, BombCost) else [0.3, 0.3, 0.3]
        body.add_geom(name="danger", size=size, **appearance)
    return spec.compile()


def _quaternion_about_z(angle: float) -> list[float]:
    """Returns the quaternion of a rotation about z."""
    return [math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)]


def _with_clock(frames: np.ndarray, clock_texts: Sequence[str]) -> np.ndarray:
    """Returns the frames with a line of text in their upper left corner."""
    from PIL import Image, ImageDraw

    images = [Image.fromarray(frame) for frame in frames]
    for frame, text in zip(images, clock_texts, strict=True):
        ImageDraw.Draw(frame).text(
            (12, 10),
            text,
            fill=(255, 255, 255),
            font_size=16,
            stroke_width=2,
            stroke_fill=(40, 40, 40),
        )
    return np.stack([np.asarray(frame) for frame in images])


def _save_video(frames: np.ndarray, path: Path) -> None:
    """Writes frames as ``.gif``, or else by imageio."""
    if path.suffix == ".gif":
        from PIL import Image

        first, *rest = (Image.fromarray(frame).quantize(64) for frame in frames)
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / _FPS), loop=0)
        return
    try:
        import imageio.v2 as imageio

        with warnings.catch_warnings():  # ffmpeg is started by a fork, and runs nothing of JAX
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            options: dict[str, Any] = dict(fps=_FPS, macro_block_size=16)
            imageio.mimwrite(path, list(frames), **options)
    except (ImportError, ValueError) as error:
        advice = "install 'imageio[ffmpeg]', or write a .gif"
        raise ValueError(f"{path.name} cannot be written ({error}); {advice}") from error


def write_path(name: str, danger: CostFunction | None, episode: Episode, path: Path) -> Path:
    """Draws the robot's path from above, steps with a cost in red, and the corridor's walls.

    Args:
        name: Name of the environment.
        danger: Cost of the hazard; None without costs.
        episode: The episode.
        path: File to write.

    Returns:
        ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions, costly = episode.path, episode.has_cost
    axes.plot(*positions.T, color="#4477aa", lw=1.5)
    label = f"{int(costly.sum())} of {len(costly) - 1} steps cost something"
    axes.plot(*positions[costly].T, ".", color="#cc3311", ms=4, label=label)
    if isinstance(danger, CorridorCost):
        xs = np.linspace(
            min(positions[:, 0].min(), 0) - 5,
            max(positions[:, 0].max(), 20) + 5,
            400,
            dtype=np.float32,
        )
        middle = np.asarray(cost_functions.centre_line(jnp.asarray(xs), danger.level))
        for side in (-1, 1):
            axes.plot(xs, middle + side * danger.half_width, color="#777777", lw=2)
    if isinstance(danger, MovingHazardCost):
        axes.axvline(
            float(episode.hazard_x[-1]),
            color="#777777",
            lw=2,
            label=f"{danger.name} at the end",
        )
    axes.set(
        xlabel="x (m)",
        ylabel="y (m)" if isinstance(danger, CorridorCost) else "height (m)",
        title=name,
    )
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120)
    return path
