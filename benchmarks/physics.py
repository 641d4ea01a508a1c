"""Robots on MJX beside MuJoCo's C engine: how near, and how fast.

    python benchmarks/physics.py                                all robots
    python benchmarks/physics.py --robots ant halfcheetah --sections accuracy settings
    python benchmarks/physics.py --sections speed --worlds 64 1024 4096

accuracy    one step of the environment from random states and actions, and 50 steps, against the C engine on the same
            model: relative errors of positions and velocities, and returns (ends of episodes passed over)
settings    physics="fast" against "reference", both by the C engine: the same for what the settings change
speed       steps per second of the bare environment by worlds, and seconds to compile, and the C engine's on one core

A relative error is ``|ours - theirs| / max(|theirs|, 1e-2)`` entry by entry; states come from
random play. Differences of returns are per cent of the mean size of a return: of the mean over all
states, with its standard error, and the median of one trajectory's, which contacts soon make
another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import bench_utils
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.envs.mujoco.tasks import ROBOTS as ROBOTS_OF

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    path = chosen.out / f"physics-{bench_utils.device_name()}.json"
    data: dict[str, Any] = bench_utils.read(path) if path.exists() else {}
    for robot in chosen.robots:
        for section in chosen.sections:
            print(f"{robot}: {section} ...", flush=True)
            found = {"accuracy": accuracy, "settings": settings, "speed": speed}[section](
                ROBOTS[robot], chosen
            )
            data.setdefault(section, {})[robot] = found
            print("   ", found, flush=True)
            bench_utils.write(
                path,
                {**data, "facts": bench_utils.facts()},
                text({**data, "facts": bench_utils.facts()}),
            )
    return 0


def played(
    model: Any, frame_skip: int, number: int, seed: int, is_healthy: Any, longest: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """States of random play by the C engine in which the robot is healthy: positions and
    velocities.
    """
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
        if is_healthy(data.qpos, data.qvel):
            states.append((data.qpos.copy(), data.qvel.copy()))
    qpos, qvel = map(np.stack, zip(*states, strict=True))
    return qpos, qvel


class Way(NamedTuple):
    """Some steps from many states."""

    qpos: np.ndarray  # [steps, number, nq] after each step
    qvel: np.ndarray  # [steps, number, nv]
    returns: np.ndarray  # [number] sum of the rewards


def engine(env: Any, body: Any, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> Way:
    """The steps by the C engine with a robot's model; ``actions`` ``[steps, number, N, A]``."""
    robot, model = ROBOTS_OF[env.robot], body.model
    driven = np.asarray(jax.vmap(jax.vmap(env.to_ctrl))(jnp.asarray(actions, float)), np.float64)
    low, high = model.actuator_ctrlrange.T
    signals = low + (driven + 1.0) / 2.0 * (high - low)
    data, mass = mujoco.MjData(model), model.body_mass
    steps, number = actions.shape[:2]
    after = np.zeros((steps, number, model.nq)), np.zeros((steps, number, model.nv))
    speeds = np.zeros((steps, number, 1 if robot.use_com_velocity else len(robot.roots)))
    forces = np.zeros((steps, number, model.nbody if robot.forces else 0, 6))

    def place() -> np.ndarray:
        if not robot.use_com_velocity:
            return data.qpos[list(robot.roots)].copy()
        mujoco.mj_kinematics(model, data)
        return (mass @ data.xipos[:, :1]) / mass.sum()

    for i in range(number):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        here = place()
        for t in range(steps):
            data.ctrl[:] = signals[t, i]
            mujoco.mj_step(model, data, body.frame_skip)
            if robot.forces:
                mujoco.mj_rnePostConstraint(model, data)
                forces[t, i] = data.cfrc_ext
            before, here = here, place()
            after[0][t, i], after[1][t, i], speeds[t, i] = (
                data.qpos,
                data.qvel,
                (here - before) / body.step_seconds,
            )
    rewards = jax.vmap(jax.vmap(robot.reward))(speeds, driven, signals, forces)
    return Way(*after, np.asarray(rewards).sum(0))


def mjx(env: Any, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> Way:
    """The steps by the environment."""
    number = len(qpos)
    start = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(
        jax.random.split(jax.random.key(0), number)
    )
    start = start._replace(qpos=jnp.asarray(qpos, float), qvel=jnp.asarray(qvel, float))
    start = start._replace(place=jax.vmap(env._position)(start.qpos))

    def step(state: Any, action: Any) -> Any:
        state, timestep = jax.vmap(env.step)(state, action)
        return state, (state.qpos, state.qvel, timestep.reward[:, 0])

    played = jax.jit(lambda state, actions: jax.lax.scan(step, state, actions)[1])
    places, speeds, rewards = map(np.asarray, played(start, jnp.asarray(actions, float)))
    return Way(places, speeds, rewards.sum(0))


def relative(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Entry by entry, no more than a hundred times the error itself."""
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-2)


def compared(ours: Way, theirs: Way) -> dict[str, float]:
    """Errors after one step, and of the returns over all of them."""
    found: dict[str, float] = {}
    for name in ("qpos", "qvel"):
        error = relative(getattr(ours, name)[0], getattr(theirs, name)[0])
        each = error.max(-1)
        found |= {
            f"{name}_median": float(np.median(error)),
            f"{name}_state_median": float(np.median(each)),
            f"{name}_state_p99": float(np.quantile(each, 0.99)),
            f"{name}_state_largest": float(each.max()),
        }
    difference, mean = ours.returns - theirs.returns, float(theirs.returns.mean())
    scale = np.abs(theirs.returns).mean()
    return found | {
        "return_mean": mean,
        "return_mean_difference_%": float(100 * difference.mean() / scale),
        "return_difference_se_%": float(100 * difference.std() / np.sqrt(len(difference)) / scale),
        "return_median_difference_%": float(100 * np.median(np.abs(difference)) / scale),
    }


def _task(env_id: str, chosen: argparse.Namespace, physics: str) -> tuple[Any, ...]:
    """The environment, and states and actions of random play with some physics."""
    env = jml.make(env_id)
    body = jml.make(env_id, physics=physics)._body
    states = played(body.model, body.frame_skip, chosen.states, 0, ROBOTS_OF[env.robot].is_healthy)
    size = STEPS, chosen.states, env.spec.num_agents, env.spec.action_size
    return env, *states, np.random.default_rng(1).uniform(-1.0, 1.0, size)


def accuracy(env_id: str, chosen: argparse.Namespace) -> dict[str, float]:
    """MJX against the C engine on one model."""
    env, *task = _task(env_id, chosen, "fast")
    return compared(mjx(env, *task), engine(env, env._body, *task))


def settings(env_id: str, chosen: argparse.Namespace) -> dict[str, float]:
    """What the fast settings change, by the C engine in double precision."""
    env, *task = _task(env_id, chosen, "reference")
    reference = jml.make(env_id, physics="reference")._body
    return compared(engine(env, env._body, *task), engine(env, reference, *task))


def speed(env_id: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Steps per second by worlds, and the seconds to compile."""
    env = jml.make(env_id)
    agents, size = env.spec.num_agents, env.spec.action_size

    def rollout(states: Any, key: Any) -> Any:
        def step(states: Any, key: Any) -> Any:
            action = jax.random.uniform(
                key, (len(states.time), agents, size), minval=-1.0, maxval=1.0
            )
            states, timestep = jax.vmap(env.step)(states, action)
            return states, timestep.reward.sum()

        return jax.lax.scan(step, states, jax.random.split(key, chosen.steps))

    found: dict[str, Any] = {}
    for worlds in chosen.worlds:
        states = jax.vmap(lambda key: env.reset(key)[0])(
            jax.random.split(jax.random.key(0), worlds)
        )
        began = time.perf_counter()
        program = jax.jit(rollout).lower(states, jax.random.key(0)).compile()
        found[f"compile_s_{worlds}"] = time.perf_counter() - began
        times = bench_utils.seconds(
            lambda p=program, s=states: p(s, jax.random.key(1)), chosen.repeats
        )
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
    parts = [
        "# Robots on MJX\n",
        bench_utils.facts_text(data["facts"]) + "\n",
        *__doc__.split("\n\n")[2:],
        "",
    ]
    for section in SECTIONS:
        rows = data.get(section, {})
        if not rows:
            continue
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        parts += [
            f"\n## {section.capitalize()}\n",
            bench_utils.table(
                ["robot", *(name.replace("_", " ") for name in columns)],
                [[robot, *(row.get(name) for name in columns)] for robot, row in rows.items()],
            ),
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
