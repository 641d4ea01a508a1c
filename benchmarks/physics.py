"""Measures accuracy and speed of the robots on MJX beside MuJoCo's C engine.

    python benchmarks/physics.py                                all robots
    python benchmarks/physics.py --robots ant halfcheetah --sections accuracy settings
    python benchmarks/physics.py --sections speed --num-envs 64 1024 4096

- accuracy: one step of the environment from random states and actions, and 50 steps, against the
  C engine on the same model: relative errors of positions and velocities, and returns (ends of
  episodes ignored)
- settings: physics="fast" against "reference", both by the C engine
- speed: steps per second of the environment alone by number of copies, seconds to compile, and the
  C engine's speed on one core

A relative error is ``|ours - theirs| / max(|theirs|, 1e-2)`` entry by entry; states come from
random play. Differences of returns are per cent of the mean size of a return: of the mean over all
states, with its standard error, and the median of single trajectories', which contacts soon drive
apart.
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


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--robots", nargs="+", choices=ROBOTS, default=list(ROBOTS))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    bench_utils.add_numbers(
        parser,
        states=(1000, "random states for the accuracy"),
        num_envs=([64, 256, 1024], "numbers of environments to time"),
        steps=(20, "steps of a timed rollout"),
        repeats=3,
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measures robot by robot; other results in the file stay."""
    args = options(argv)
    path = args.out / f"physics-{bench_utils.device_name()}.json"
    data: dict[str, Any] = bench_utils.read(path) if path.exists() else {}
    for robot in args.robots:
        for section in args.sections:
            print(f"{robot}: {section} ...", flush=True)
            result = {"accuracy": accuracy, "settings": settings, "speed": speed}[section](
                ROBOTS[robot], args
            )
            data.setdefault(section, {})[robot] = result
            print("   ", result, flush=True)
            data["facts"] = bench_utils.facts()
            bench_utils.write(path, data, text(data))
    return 0


def played(
    model: Any, frame_skip: int, number: int, seed: int, is_healthy: Any, longest: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions and velocities of healthy states in random play by the C engine."""
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


class Trajectories(NamedTuple):
    """Some steps from many states.

    Attributes:
        qpos: ``[steps, number, nq]`` positions at the end of each step.
        qvel: ``[steps, number, nv]`` velocities at the end of each step.
        returns: ``[number]`` sums of the rewards.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    returns: np.ndarray


def engine(
    env: Any, body: Any, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray
) -> Trajectories:
    """Makes the steps by the C engine with a robot's model; actions ``[steps, number, N, A]``."""
    robot, model = ROBOTS_OF[env.robot], body.model
    controls = np.asarray(jax.vmap(jax.vmap(env.to_ctrl))(jnp.asarray(actions, float)), np.float64)
    low, high = model.actuator_ctrlrange.T
    signals = low + (controls + 1.0) / 2.0 * (high - low)
    data, mass = mujoco.MjData(model), model.body_mass
    steps, number = actions.shape[:2]
    states = np.zeros((steps, number, model.nq)), np.zeros((steps, number, model.nv))
    speeds = np.zeros((steps, number, 1 if robot.use_com_velocity else len(robot.roots)))
    forces = np.zeros((steps, number, model.nbody if robot.forces else 0, 6))

    def position() -> np.ndarray:
        if not robot.use_com_velocity:
            return data.qpos[list(robot.roots)].copy()
        mujoco.mj_kinematics(model, data)
        return (mass @ data.xipos[:, :1]) / mass.sum()

    for i in range(number):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        current_position = position()
        for t in range(steps):
            data.ctrl[:] = signals[t, i]
            mujoco.mj_step(model, data, body.frame_skip)
            if robot.forces:
                mujoco.mj_rnePostConstraint(model, data)
                forces[t, i] = data.cfrc_ext
            last_position, current_position = current_position, position()
            states[0][t, i], states[1][t, i], speeds[t, i] = (
                data.qpos,
                data.qvel,
                (current_position - last_position) / body.step_seconds,
            )
    rewards = jax.vmap(jax.vmap(robot.reward))(speeds, controls, signals, forces)
    return Trajectories(*states, np.asarray(rewards).sum(0))


def mjx(env: Any, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> Trajectories:
    """Makes the steps by the environment."""
    number = len(qpos)
    start = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(
        jax.random.split(jax.random.key(0), number)
    )
    start = start._replace(qpos=jnp.asarray(qpos, float), qvel=jnp.asarray(qvel, float))
    start = start._replace(position=jax.vmap(env._position)(start.qpos))

    def step(state: Any, action: Any) -> Any:
        state, timestep = jax.vmap(env.step)(state, action)
        return state, (state.qpos, state.qvel, timestep.reward[:, 0])

    played = jax.jit(lambda state, actions: jax.lax.scan(step, state, actions)[1])
    places, speeds, rewards = map(np.asarray, played(start, jnp.asarray(actions, float)))
    return Trajectories(places, speeds, rewards.sum(0))


def relative(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns relative errors by entry, at most a hundred times the absolute error."""
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-2)


def compared(ours: Trajectories, theirs: Trajectories) -> dict[str, float]:
    """Returns errors of positions and velocities of one step, and of returns over all steps."""
    errors: dict[str, float] = {}
    for name in ("qpos", "qvel"):
        error = relative(getattr(ours, name)[0], getattr(theirs, name)[0])
        state_errors = error.max(-1)
        errors |= {
            f"{name}_median": float(np.median(error)),
            f"{name}_state_median": float(np.median(state_errors)),
            f"{name}_state_p99": float(np.quantile(state_errors, 0.99)),
            f"{name}_state_largest": float(state_errors.max()),
        }
    difference, mean = ours.returns - theirs.returns, float(theirs.returns.mean())
    scale = np.abs(theirs.returns).mean()
    return errors | {
        "return_mean": mean,
        "return_mean_difference_%": float(100 * difference.mean() / scale),
        "return_difference_se_%": float(100 * difference.std() / np.sqrt(len(difference)) / scale),
        "return_median_difference_%": float(100 * np.median(np.abs(difference)) / scale),
    }


def _task(env_id: str, args: argparse.Namespace, physics: str) -> tuple[Any, ...]:
    """Returns the environment, and states and actions of random play with some physics."""
    env = jml.make(env_id)
    body = jml.make(env_id, physics=physics)._body
    states = played(body.model, body.frame_skip, args.states, 0, ROBOTS_OF[env.robot].is_healthy)
    size = STEPS, args.states, env.spec.num_agents, env.spec.action_size
    return env, *states, np.random.default_rng(1).uniform(-1.0, 1.0, size)


def accuracy(env_id: str, args: argparse.Namespace) -> dict[str, float]:
    """Compares MJX with the C engine on one model."""
    env, *task = _task(env_id, args, "fast")
    return compared(mjx(env, *task), engine(env, env._body, *task))


def settings(env_id: str, args: argparse.Namespace) -> dict[str, float]:
    """Measures the effect of the fast settings, by the C engine in double precision."""
    env, *task = _task(env_id, args, "reference")
    reference = jml.make(env_id, physics="reference")._body
    return compared(engine(env, env._body, *task), engine(env, reference, *task))


def speed(env_id: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures steps per second by number of environments, and the seconds to compile."""
    env = jml.make(env_id)
    agents, size = env.spec.num_agents, env.spec.action_size

    def rollout(states: Any, key: Any) -> Any:
        def step(states: Any, key: Any) -> Any:
            action = jax.random.uniform(
                key, (len(states.time), agents, size), minval=-1.0, maxval=1.0
            )
            states, timestep = jax.vmap(env.step)(states, action)
            return states, timestep.reward.sum()

        return jax.lax.scan(step, states, jax.random.split(key, args.steps))

    result: dict[str, Any] = {}
    for num_envs in args.num_envs:
        states = jax.vmap(lambda key: env.reset(key)[0])(
            jax.random.split(jax.random.key(0), num_envs)
        )
        began = time.perf_counter()
        program = jax.jit(rollout).lower(states, jax.random.key(0)).compile()
        result[f"compile_s_{num_envs}"] = time.perf_counter() - began
        times = bench_utils.seconds(
            lambda p=program, s=states: p(s, jax.random.key(1)), args.repeats
        )
        result[f"steps_per_s_{num_envs}"] = num_envs * args.steps / statistics.median(times)
    body = env._body
    data = mujoco.MjData(body.model)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        data.ctrl[:] = np.random.uniform(*body.model.actuator_ctrlrange.T)
        mujoco.mj_step(body.model, data, body.frame_skip)
        count += 1
    return result | {"c_steps_per_s": count / (time.perf_counter() - began)}


def text(data: dict[str, Any]) -> str:
    """Formats the tables as Markdown."""
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
        names = dict.fromkeys(name for row in rows.values() for name in row)
        table = [
            {"robot": robot} | {name.replace("_", " "): row.get(name) for name in names}
            for robot, row in rows.items()
        ]
        parts += [f"\n## {section.capitalize()}\n", bench_utils.table(table)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
