"""Draws the pictures of the environments' suites: `python docs/pictures.py [SUITE ...]`.

Each picture is a row of stills of one suite. A still is the state after some steps of a policy that
chooses legal actions at random, or after the reset (robots), as `Result.render` draws it.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxmarl_lite as jml
from jaxmarl_lite.report import plotting

OUT = Path(__file__).parent / "images"
SUITES: dict[str, dict[str, int]] = {
    "jumanji": {
        "jumanji/lbf-2s-8x8-2p-2f-coop": 8,
        "jumanji/rware-tiny-2ag": 12,
        "jumanji/connector-10x10x5a": 8,
        "jumanji/cleaner-10x10x3a": 20,
        "jumanji/search-and-rescue-2s-40t": 20,
        "jumanji/mmst-3a-36n": 10,
        "jumanji/multi-cvrp-2v-20c": 6,
    },
    "safe": {
        "safe/search-and-rescue-4s-40t": 20,
        "safe/cleaner-10x10x5a": 30,
        "safe/rware-tiny-4ag-easy": 12,
        "safe/lbf-8x8-2p-2f-coop": 8,
    },
    "smax": {"smax/3m": 8, "smax/2s3z": 10, "smax/8m": 10, "smax/smacv2_10_units": 10},
    "mpe": {"mpe/spread-3a": 12, "mpe/reference": 6, "mpe/speaker-listener": 6},
    "overcooked": {
        f"overcooked/{name}": 4
        for name in (
            "cramped-room",
            "coord-ring",
            "forced-coord",
            "asymm-advantages",
            "counter-circuit",
        )
    },
    "mujoco": {
        "mujoco/ant-2x4": 0,
        "mujoco/halfcheetah-2x3": 0,
        "mujoco/humanoid-9|8": 0,
        "mujoco/walker2d-2x3": 0,
        "mujoco/hopper-3x1": 0,
        "mujoco/coupled-halfcheetah": 0,
        "mujoco/manyagent-ant-2x3": 0,
        "mujoco/manyagent-swimmer-10x2": 0,
    },
    "safe-mujoco": {
        "safe-mujoco/ant-2x4": 0,
        "safe-mujoco/halfcheetah-2x3": 0,
        "safe-mujoco/hopper-3x1": 0,
        "safe-mujoco/manyagent-ant-2x3": 0,
    },
}
"""Suite -> environment -> steps before the still."""
COLUMNS = 5
OVERLAY = 24
"""Pixels at the top of a robot's video with the time, which a still does without."""


def still(name: str, steps: int) -> np.ndarray:
    """Returns the picture ``[H, W, 3]`` of an environment after some steps.

    Args:
        name: the environment.
        steps: steps of random legal actions.
    """
    env = jml.make(name)
    spec, key = env.spec, jax.random.key(1)
    state, timestep = jax.jit(env.reset)(jax.random.fold_in(key, 0))
    step = jax.jit(env.step)
    for index in range(steps):
        step_key = jax.random.fold_in(key, 1 + index)
        if spec.action_type == "discrete":
            logits = jnp.where(timestep.obs.action_mask, 0.0, -jnp.inf)
            action = jax.random.categorical(step_key, logits)
        else:
            shape = (spec.num_agents, spec.action_size)
            action = jax.random.uniform(step_key, shape, minval=-1.0)
        state, timestep = step(state, action)
    with tempfile.TemporaryDirectory() as folder:
        path = env.animate([state], Path(folder) / "still.gif")  # type: ignore[attr-defined]
        with Image.open(path) as film:
            pixels = np.asarray(film.convert("RGB"))
    return pixels[OVERLAY:] if "mujoco" in name else pixels


def draw(suite: str) -> Path:
    """Draws the picture of a suite.

    Args:
        suite: its name.

    Returns:
        The file.
    """
    stills = {name: still(name, steps) for name, steps in SUITES[suite].items()}
    columns = len(stills) if len(stills) <= COLUMNS else COLUMNS - 1
    rows = math.ceil(len(stills) / columns)
    shape = max(pixels.shape[0] / pixels.shape[1] for pixels in stills.values())
    width = 9.6 / columns
    figure = plotting.new_figure(9.6, rows * (width * shape + 0.25))
    for index, (name, pixels) in enumerate(stills.items(), start=1):
        axes = figure.add_subplot(rows, columns, index)
        axes.imshow(pixels)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#b0b0b0")
        axes.set_title(
            name.split("/")[1], fontsize=8.5, color=plotting.TEXT_COLOR, loc="left", pad=3
        )
    path = OUT / f"suite-{suite}.webp"
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 80, "method": 6})
    return path


def main(suites: list[str]) -> None:
    """Draws the pictures of suites, all by default."""
    if unknown := [suite for suite in suites if suite not in SUITES]:
        sys.exit(f"SUITE is {unknown[0]}; allowed is one of {', '.join(SUITES)}")
    for suite in suites or SUITES:
        path = draw(suite)
        print(f"{path}: {path.stat().st_size / 1024:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
