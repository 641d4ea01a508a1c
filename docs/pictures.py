"""Draws the pictures of the documentation: `python docs/pictures.py [NAME ...]`.

``glance`` shows the library at a glance: stills, a limit on a cost, and speed, from the stored
results. All others are suites of environments: each picture has stills of one. A still is the state
after some steps of a policy that chooses legal actions at random, or after the reset (robots), as
`Result.render` draws it.
"""

from __future__ import annotations

import dataclasses
import json
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
from jaxmarl_lite.experiment import reference_results
from jaxmarl_lite.report import plotting

OUT = Path(__file__).parent / "images"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SPEED = "compare-speed-nvidia-h100-80gb-hbm3.json"
SEARCH = "safe/search-and-rescue-2s-40t"
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


def glance() -> Path:
    """Draws the library at a glance.

    Returns:
        The file.
    """
    figure = plotting.new_figure(10.5, 3.3)
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.0, 1.15, 1.25))
    names = ("jumanji/lbf-2s-8x8-2p-2f-coop", "smax/3m", SEARCH, "safe-mujoco/ant-2x4")
    steps = {name: n for suite in SUITES.values() for name, n in suite.items()}
    for axes, name in zip(left.subplots(2, 2).flat, names, strict=True):
        pixels = still(name, steps.get(name, 20))
        side = min(pixels.shape[:2])
        top, start = ((n - side) // 2 for n in pixels.shape[:2])
        axes.imshow(pixels[top : top + side, start : start + side])
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#b0b0b0")
    title = dict(fontsize=9, color=plotting.TEXT_COLOR, x=0.02, ha="left")
    left.suptitle("Jumanji, SMAX, robots; with costs", **title)

    stored = reference_results.results(SEARCH, jml.make(SEARCH))
    results = {label: stored[label] for label in ("happo", "macpo", "mappo-lagrangian")}
    spec = jml.make(SEARCH).spec
    panels = plotting.run_panels(
        results, cost_names=spec.cost_names, cost_descriptions=spec.cost_descriptions
    )
    panel = next(panel for panel in panels if panel.title.endswith("closed_zone"))
    axes = middle.subplots()
    plotting.draw_panel(axes, dataclasses.replace(panel, title="", show_seeds=False), small=True)
    middle.suptitle("limits on costs: safe search and rescue", **title)

    rows = json.loads((RESULTS / SPEED).read_text())["rows"]
    peers = {"jaxmarl": "JaxMARL", "mava": "Mava"}
    bars = [
        (f"{label.split(' x ')[0]} envs\nbeside {peers[name]}", row["ratio"])
        for label, row in rows.items()
        for name in peers
        if name in row["seconds"]
    ]
    axes = right.subplots()
    places = np.arange(len(bars))[::-1]
    axes.barh(places, [ratio for _, ratio in bars], color=plotting.PALETTE[0], height=0.6)
    axes.set_yticks(places, [label for label, _ in bars])
    plotting.style_axes(axes, "", "", small=True)
    axes.set_yticks(places, [label for label, _ in bars], fontsize=7)
    axes.axvline(1.0, color=plotting.MUTED_COLOR, linestyle=(0, (5, 2)), linewidth=1.2)
    axes.xaxis.set_major_formatter("{x:g}")
    for place, (_, ratio) in zip(places, bars, strict=True):
        axes.text(ratio + 0.05, place, f"{ratio:.1f}", va="center", fontsize=7.5)
    axes.set_xlabel("times as fast (one H100)", fontsize=8)
    right.suptitle("environment, rollout and update: one program", **title)
    path = OUT / "glance.webp"
    figure.savefig(path, dpi=130, pil_kwargs={"quality": 85, "method": 6})
    return path


def main(names: list[str]) -> None:
    """Draws pictures, all by default."""
    known = ["glance", *SUITES]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"NAME is {unknown[0]}; allowed is one of {', '.join(known)}")
    for name in names or known:
        path = glance() if name == "glance" else draw(name)
        print(f"{path}: {path.stat().st_size / 1024:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
