"""Films of a robot by MuJoCo's own renderer, without a window; without OpenGL, its path from above.

Walls, bomb and box are drawn where the costs have them; while a step costs something the robot is
red and the picture has a red edge. A clock tells the seconds since the episode began, and how much
faster than they the film runs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.mujoco import hazards, models
from jaxmarl_lite.envs.mujoco._import import mujoco
from jaxmarl_lite.envs.mujoco.cost_functions import BombCost, BoxCost, CorridorCost

_SIZE, _MOST_FRAMES, _FPS = (720, 400), 300, 25
_CAMERA = Path(__file__).with_name("camera.py")


def write_video(env: Any, states: Sequence[Any], path: str | Path) -> Path:
    """Write ``.gif`` or ``.mp4``; where no OpenGL can be had, say so and write the path from above
    as ``.png``.
    """
    path = Path(path)
    if not states:
        raise ValueError("animate: states is empty; give at least one state")
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"animate: path must end in .gif or .mp4, not {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    costly = _costly(env, states)
    stride = math.ceil(len(states) / _MOST_FRAMES)
    since_last = [
        bool(costly[max(0, i - stride + 1) : i + 1].any()) for i in range(0, len(states), stride)
    ]
    try:
        frames = _frames(env, states[::stride], since_last)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        warnings.warn(
            f"MuJoCo could not draw ({said[-1] if said else error}); where OpenGL is missing, "
            "MUJOCO_GL=egl or "
            "MUJOCO_GL=osmesa may help. The path is drawn instead",
            stacklevel=3,
        )
        return write_path(env, states, costly, path.with_suffix(".png"))
    speed = stride * env._body.step_seconds * _FPS
    clock = [
        f"{float(env.seconds(state)):.1f} s, {speed:.2g} times as fast"
        for state in states[::stride]
    ]
    _save(_with_clock(frames, clock), path)
    return path


def _costly(env: Any, states: Sequence[Any]) -> np.ndarray:
    """Whether the step that led to each state cost anyone anything."""
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    return np.asarray(jax.jit(jax.vmap(env.cost_of))(together)).sum((1, 2)) > 0


def _frames(env: Any, states: Sequence[Any], costly: Sequence[bool]) -> np.ndarray:
    model = _scene(env)
    robot = [
        i
        for i in range(model.ngeom)
        if model.geom_bodyid[i] > 0 and not model.geom(i).name.startswith("danger")
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("model.mjb", "film.npz", "frames.npy")]
        mujoco.mj_saveModel(model, files[0])
        np.savez(
            files[1],
            qpos=np.stack([np.asarray(state.qpos, float) for state in states]),
            costly=costly,
            robot=robot,
            danger=np.stack([_danger_place(env, state) for state in states]),
            view=_view(env),
            size=_SIZE,
        )
        surroundings = dict(os.environ)
        if sys.platform.startswith("linux") and not surroundings.get("DISPLAY"):
            surroundings.setdefault("MUJOCO_GL", "egl")
        command = [sys.executable, str(_CAMERA), *files]
        subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings)
        return np.load(files[2])


def _view(env: Any) -> tuple[float, float, float, float]:
    """Distance, azimuth and elevation of the camera that follows the robot, and how far before it
    the camera looks.
    """
    if isinstance(env.danger, CorridorCost):
        return 14.0, 155.0, -30.0, 0.0
    if isinstance(env.danger, BombCost):
        return (
            8.0,
            90.0,
            -12.0,
            4.0,
        )  # so far that the bomb comes into sight where it begins to cost
    return (5.0, 90.0, -12.0, 1.5) if _is_ahead(env) else (5.0, 90.0, -12.0, 0.0)


def _scene(env: Any) -> Any:
    """The robot's model with walls, a bomb or a box to look at, which touch nothing."""
    spec = models.specification(env.robot, env.segments, env.physics)
    spec.compiler.settotalmass = -1
    looks: dict[str, Any] = dict(
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
    if isinstance(env.danger, CorridorCost):
        ends = (-20.0, *([0.0] if env.danger.level else []), 20.0, 60.0, 100.0, 200.0)
        for i, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            for side in (-1.0, 1.0):
                a, b = (
                    float(hazards.centre_line(jnp.asarray(x), env.danger.level))
                    + side * env.danger.half_width
                    for x in (start, end)
                )
                spec.worldbody.add_geom(
                    name=f"danger_{i}_{side:g}",
                    pos=[(start + end) / 2, (a + b) / 2, 0.7],
                    size=[math.hypot(end - start, b - a) / 2, 0.05, 0.7],
                    quat=_about_z(math.atan2(b - a, end - start)),
                    **looks,
                )
    elif _is_ahead(env):
        body = spec.worldbody.add_body(name="danger", mocap=True)
        size = [0.1, 2.3, 1.3] if isinstance(env.danger, BombCost) else [0.3, 0.3, 0.3]
        body.add_geom(name="danger", size=size, **looks)
    return spec.compile()


def _is_ahead(env: Any) -> bool:
    return isinstance(env.danger, (BombCost, BoxCost))


def _about_z(angle: float) -> list[float]:
    return [math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)]


def _danger_place(env: Any, state: Any) -> tuple[float, float, float]:
    """Where the bomb or the box is drawn."""
    if not _is_ahead(env):
        return 0.0, 0.0, 0.0
    if isinstance(env.danger, BombCost):
        return float(state.hazard.x), 0.0, 1.4
    return float(hazards.box_place(env.seconds(state))), 0.0, 0.3


def _with_clock(frames: np.ndarray, clock: Sequence[str]) -> np.ndarray:
    """The frames with a line of words in their upper left corner."""
    from PIL import Image, ImageDraw

    written = [Image.fromarray(frame) for frame in frames]
    for frame, words in zip(written, clock, strict=True):
        ImageDraw.Draw(frame).text(
            (12, 10),
            words,
            fill=(255, 255, 255),
            font_size=16,
            stroke_width=2,
            stroke_fill=(40, 40, 40),
        )
    return np.stack([np.asarray(frame) for frame in written])


def _save(frames: np.ndarray, path: Path) -> None:
    if path.suffix == ".gif":
        from PIL import Image

        first, *rest = (Image.fromarray(frame).quantize(64) for frame in frames)
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / _FPS), loop=0)
        return
    try:
        import imageio.v2 as imageio

        with warnings.catch_warnings():  # ffmpeg is started by a fork, and runs nothing of JAX
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            imageio.mimwrite(path, list(frames), fps=_FPS, macro_block_size=16)  # type: ignore[call-overload]
    except (ImportError, ValueError) as error:
        advice = "install 'imageio[ffmpeg]', or write a .gif"
        raise ValueError(f"{path.name} cannot be written ({error}); {advice}") from error


def write_path(env: Any, states: Sequence[Any], costly: np.ndarray, path: Path) -> Path:
    """The robot's path from above, the steps that cost something in red, the corridor's walls."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    at = np.array([[float(state.place[0]), float(state.qpos[1])] for state in states])
    axes.plot(*at.T, color="#4477aa", lw=1.5)
    label = f"{int(costly.sum())} of {len(costly) - 1} steps cost something"
    axes.plot(*at[costly].T, ".", color="#cc3311", ms=4, label=label)
    if isinstance(env.danger, CorridorCost):
        xs = np.linspace(
            min(at[:, 0].min(), 0) - 5, max(at[:, 0].max(), 20) + 5, 400, dtype=np.float32
        )
        middle = np.asarray(hazards.centre_line(jnp.asarray(xs), env.danger.level))
        for side in (-1, 1):
            axes.plot(xs, middle + side * env.danger.half_width, color="#777777", lw=2)
    if _is_ahead(env):
        axes.axvline(
            _danger_place(env, states[-1])[0],
            color="#777777",
            lw=2,
            label=f"{env.danger.name} at the end",
        )
    axes.set(
        xlabel="x (m)",
        ylabel="y (m)" if isinstance(env.danger, CorridorCost) else "height (m)",
        title=env.name,
    )
    axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120)
    return path
