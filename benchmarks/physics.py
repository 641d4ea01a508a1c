"""Robots on MJX beside MuJoCo's C engine: how near, and how fast.

    python benchmarks/physics.py                                all robots
    python benchmarks/physics.py --robots ant halfcheetah --sections accuracy settings
    python benchmarks/physics.py --sections speed --worlds 64 1024 4096

accuracy    one step of the environment from random states and actions, and 50 steps, against the C engine on the same
            model: relative errors of positions and velocities, and of the returns
settings    physics="fast" against "reference", both by the C engine: the same for what the settings change
speed       steps per second of the bare environment by worlds, and seconds to compile, and the C engine's on one core

A relative error is ``|ours - theirs| / max(|theirs|, 1e-2)`` entry by entry; states come from random play.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import mujoco
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.envs.mujoco.robots import ROBOTS as ROBOTS_OF

HERE = Path(__file__).parent
ROBOTS = {
    "ant": "mujoco/ant-2x4",
    "halfcheetah": "mujoco/halfcheetah-2x3",
    "hopper": "mujoco/hopper-3x1",
    "walker2d": "mujoco/walker2d-2x3",
    "swimmer": "mujoco/swimmer-2x1",
    "humanoid": "mujoco/humanoid-9|8",
    "manyagent-ant": "mujoco/manyagent-ant-2x3",
    "manyagent-swimmer": "mujoco/manyagent-swimmer-10x2",
    "coupled-halfcheetah": "mujoco/coupled-halfcheetah",
}
SECTIONS = ("accuracy", "settings", "speed")
STEPS = 50


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", choices=ROBOTS, default=list(ROBOTS))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--states", type=int, default=1000, help="random states of the accuracy")
    parser.add_argument("--worlds", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=20, help="steps of a timed rollout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure robot by robot; what is in the file already stays unless it is measured anew."""
    chosen = options(words)
    path = chosen.out / f"physics-{measuring.device_name()}.json"
    data: dict[str, Any] = measuring.read(path) if path.exists() else {}
    for robot in chosen.robots:
        for section in chosen.sections:
            print(f"{robot}: {section} ...", flush=True)
            found = {"accuracy": accuracy, "settings": settings, "speed": speed}[section](ROBOTS[robot], chosen)
            data.setdefault(section, {})[robot] = found
            print("   ", found, flush=True)
            measuring.write(path, {**data, "facts": measuring.facts()}, text({**data, "facts": measuring.facts()}))
    return 0


def played(
    model: Any, frame_skip: int, number: int, seed: int, stands: Any, longest: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """States of random play by the C engine in which the robot stands: positions and velocities."""
    draw = np.random.default_rng(seed)
    data = mujoco.MjData(model)
    states: list[tuple[np.ndarray, np.ndarray]] = []
    while len(states) < number:
        mujoco.mj_resetData(model, data)
        data.qpos[:] += draw.uniform(-0.1, 0.1, model.nq) * min(1.0, 10 * model.opt.timestep)
        data.qvel[:] = 0.1 * draw.normal(size=model.nv)
        for _ in range(draw.integers(longest)):
            data.ctrl[:] = draw.uniform(*model.actuator_ctrlrange.T)
            mujoco.mj_step(model, data, frame_skip)
        if stands(data.qpos, data.qvel):
            states.append((data.qpos.copy(), data.qvel.copy()))
    qpos, qvel = map(np.stack, zip(*states, strict=True))
    return qpos, qvel


def engine(model: Any, frame_skip: int, qpos: np.ndarray, qvel: np.ndarray, signals: np.ndarray) -> Any:
    """Positions and velocities after every step by the C engine; ``signals`` ``[steps, number, nu]``."""
    data = mujoco.MjData(model)
    out = np.zeros((len(signals), len(qpos), model.nq)), np.zeros((len(signals), len(qpos), model.nv))
    for i in range(len(qpos)):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        for t, signal in enumerate(signals[:, i]):
            data.ctrl[:] = signal
            mujoco.mj_step(model, data, frame_skip)
            out[0][t, i], out[1][t, i] = data.qpos, data.qvel
    return out


def relative(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Entry by entry, no more than a hundred times the error itself."""
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-2)


def compared(ours: Any, theirs: Any, env: Any) -> dict[str, float]:
    """Errors after one step, and of the way along x over all of them."""
    pairs = zip(("qpos", "qvel"), ours, theirs, strict=True)
    first = {name: relative(np.asarray(mine)[0], his[0]) for name, mine, his in pairs}
    found: dict[str, float] = {}
    for name, error in first.items():
        each = error.max(-1)
        found |= {
            f"{name}_median": float(np.median(error)),
            f"{name}_state_median": float(np.median(each)),
            f"{name}_state_p99": float(np.quantile(each, 0.99)),
            f"{name}_state_largest": float(each.max()),
        }
    seconds = env._body.step_seconds
    way = [np.asarray(x[0])[-1, :, 0] - np.asarray(x[0])[0, :, 0] for x in (ours, theirs)]
    spread = float(np.std(way[1]))
    return found | {
        "way_mean_difference": float((way[0] - way[1]).mean()),
        "way_mean_absolute": float(np.abs(way[0] - way[1]).mean()),
        "way_spread": spread,
        "seconds": seconds * (len(np.asarray(ours[0])) - 1),
    }


def accuracy(env_id: str, chosen: argparse.Namespace) -> dict[str, float]:
    """MJX against the C engine on one model."""
    env = jml.make(env_id)
    body = env._body
    qpos, qvel = played(body.model, body.frame_skip, chosen.states, 0, ROBOTS_OF[env.robot].stands)
    draw = np.random.default_rng(1)
    low, high = body.model.actuator_ctrlrange.T
    signals = draw.uniform(low, high, (STEPS, chosen.states, body.model.nu))
    theirs = engine(body.model, body.frame_skip, qpos, qvel, signals)
    start = jax.vmap(lambda key: env.reset(key)[0])(jax.random.split(jax.random.key(0), chosen.states))
    start = start._replace(qpos=jnp.asarray(qpos, float), qvel=jnp.asarray(qvel, float))

    def step(state: Any, signal: Any) -> Any:
        data = jax.vmap(env._simulated)(state, signal)
        state = state._replace(qpos=data.qpos, qvel=data.qvel, warmstart=data.qacc_warmstart)
        return state, (data.qpos, data.qvel)

    ours = jax.jit(lambda state, signals: jax.lax.scan(step, state, signals)[1])(start, jnp.asarray(signals, float))
    return compared(ours, theirs, env)


def settings(env_id: str, chosen: argparse.Namespace) -> dict[str, float]:
    """What the fast settings change, by the C engine in double precision."""
    fast, reference = jml.make(env_id), jml.make(env_id, physics="reference")
    model, frame_skip = reference._body.model, reference._body.frame_skip
    qpos, qvel = played(model, frame_skip, chosen.states, 0, ROBOTS_OF[fast.robot].stands)
    low, high = model.actuator_ctrlrange.T
    signals = np.random.default_rng(1).uniform(low, high, (STEPS, chosen.states, model.nu))
    both = (engine(x._body.model, frame_skip, qpos, qvel, signals) for x in (fast, reference))
    return compared(*both, fast)


def speed(env_id: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Steps per second by worlds, and the seconds to compile."""
    env = jml.make(env_id)
    agents, size = env.spec.num_agents, env.spec.action_size

    def rollout(states: Any, key: Any) -> Any:
        def step(states: Any, key: Any) -> Any:
            action = jax.random.uniform(key, (len(states.time), agents, size), minval=-1.0, maxval=1.0)
            states, timestep = jax.vmap(env.step)(states, action)
            return states, timestep.reward.sum()

        return jax.lax.scan(step, states, jax.random.split(key, chosen.steps))

    found: dict[str, Any] = {}
    for worlds in chosen.worlds:
        states = jax.vmap(lambda key: env.reset(key)[0])(jax.random.split(jax.random.key(0), worlds))
        began = time.perf_counter()
        program = jax.jit(rollout).lower(states, jax.random.key(0)).compile()
        found[f"compile_s_{worlds}"] = time.perf_counter() - began
        times = measuring.seconds(lambda p=program, s=states: p(s, jax.random.key(1)), chosen.repeats)
        found[f"steps_per_s_{worlds}"] = worlds * chosen.steps / statistics.median(times)
    body = env._body
    data = mujoco.MjData(body.model)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        data.ctrl[:] = np.random.uniform(*body.model.actuator_ctrlrange.T)
        mujoco.mj_step(body.model, data, body.frame_skip)
        count += 1
    return found | {"c_steps_per_s": count / (time.perf_counter() - began)}


def text(data: dict[str, Any]) -> str:
    """The tables."""
    parts = ["# Robots on MJX\n", measuring.facts_text(data["facts"]) + "\n", *__doc__.split("\n\n")[2:], ""]
    for section in SECTIONS:
        rows = data.get(section, {})
        if not rows:
            continue
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        parts += [f"\n## {section.capitalize()}\n", measuring.table(
            ["robot", *(name.replace("_", " ") for name in columns)],
            [[robot, *(row.get(name) for name in columns)] for robot, row in rows.items()],
        )]  # fmt: skip
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
