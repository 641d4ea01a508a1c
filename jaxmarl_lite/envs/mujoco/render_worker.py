"""Draws a video's frames in a process of its own.

The command is ``python render_worker.py MODEL VIDEO FRAMES``. MODEL: a compiled model, .mjb. VIDEO:
.npz with ``qpos`` [F, nq], ``danger`` [F, 3], ``costly`` [F], ``robot`` (geoms), ``view``
(distance, azimuth, elevation, metres before the robot) and ``size`` (width, height). FRAMES: .npy
to write, [F, height, width, 3]. It imports no JAX: an OpenGL driver that crashes takes nothing with
it, and Mesa's compiler and JAX's do not meet.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

mujoco: Any = importlib.import_module("mujoco")

BLUE, RED = np.array([0.25, 0.45, 0.8, 1.0]), np.array([0.85, 0.1, 0.1, 1.0])
EDGE = (216, 26, 26)


def main(model_file: str, video_file: str, frames_file: str) -> None:
    """Draws every frame: the robot blue, or red with a red edge where a step had a cost.

    Args:
        model_file: Compiled model, .mjb.
        video_file: States and camera, .npz; see the module's docstring.
        frames_file: File to write, .npy.
    """
    model = mujoco.MjModel.from_binary_path(model_file)
    # smooth edges, shadows and mirrors would cost a CPU most of its time
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    video = np.load(video_file)
    width, height = (int(x) for x in video["size"])
    robot = video["robot"]
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation, look_ahead = video["view"]
    frames = np.zeros((len(video["qpos"]), height, width, 3), np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        for frame, qpos, danger, costly in zip(
            frames, video["qpos"], video["danger"], video["costly"], strict=True
        ):
            data.qpos[:] = qpos
            if model.nmocap:
                data.mocap_pos[0] = danger
            mujoco.mj_forward(model, data)
            model.geom_rgba[robot] = RED if costly else BLUE
            camera.lookat[:] = data.xipos[1] + [look_ahead, 0.0, 0.0]
            renderer.update_scene(data, camera)
            frame[:] = renderer.render()
            if costly:
                frame[:6], frame[-6:], frame[:, :6], frame[:, -6:] = EDGE, EDGE, EDGE, EDGE
    np.save(frames_file, frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
