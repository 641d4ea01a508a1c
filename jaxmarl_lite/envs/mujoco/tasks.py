"""Robots' tasks without their costs: reward, end of an episode, first states, observed entries.

Rewards and ends are those of Gu et al. 2021's environments, which are Gymnasium's. Reward terms per
step, with a the actions in [-1, 1], u the motors' signals, f the external forces on all bodies, and
x' the speed over the step:

    ant, manyagent-ant    x' - 0.5 Σ a² - 5e-4 Σ clip(f, -1, 1)² + 1
                          ends: height outside [0.2, 1], or toppled
    halfcheetah           x' - 0.1 Σ a²
                          never ends
    hopper, walker2d      x' - 1e-3 Σ a² + 1
                          ends: height, angle or speeds out of range
    humanoid              1.25 x' - 0.1 Σ u² - min(5e-7 Σ f², 10) + 5
                          ends: height outside [1, 2]
    swimmers              x' - 1e-4 Σ a²
                          never ends
    coupled-halfcheetah   the mean of the two cheetahs' rewards
                          never ends

``x'`` is of the first body; for the humanoid of the centre of mass; each of the two cheetahs has
its own. Positions are those at the step's end, where MuJoCo's ``xpos``, which the reference
implementations read, is a physics step older.

Partition of a robot's joints among the agents, and the neighbors of each joint.

The partitions are those of Peng et al. 2021 (multi-agent MuJoCo) and Gu et al. 2021, each a list of
joints per agent. The reference implementation never applies them: it cuts the actuators, in the
order of the model's file, into consecutive slices of the same lengths, by which ``ant-2x4`` and
``ant-2x4d`` become one task. ``consecutive`` returns those slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array


def _always(qpos: Array, qvel: Array) -> Array:
    """Returns True: the episode never ends."""
    return jnp.ones((), bool)


def _ant_stands(qpos: Array, qvel: Array) -> Array:
    """Returns whether the ant's height lies in [0.2, 1] and it has not toppled."""
    upright = 1.0 - 2.0 * (qpos[4] ** 2 + qpos[5] ** 2)
    return (qpos[2] >= 0.2) & (qpos[2] <= 1.0) & (upright >= -0.7)


def _hopper_stands(qpos: Array, qvel: Array) -> Array:
    # the published hopper reads the box's joints here, so every episode ends at its first step
    """Returns whether the hopper's height, angle and speeds are in range."""
    is_calm = (jnp.abs(qpos[2:]) < 100).all() & (jnp.abs(qvel) < 100).all()
    return is_calm & (qpos[1] > 0.7) & (jnp.abs(qpos[2]) < 0.2)


def _walker_stands(qpos: Array, qvel: Array) -> Array:
    """Returns whether the walker's height and angle are in range."""
    return (qpos[1] > 0.8) & (qpos[1] < 2.0) & (jnp.abs(qpos[2]) < 1.0)


def _humanoid_stands(qpos: Array, qvel: Array) -> Array:
    """Returns whether the humanoid's height lies in [1, 2]."""
    return (qpos[2] >= 1.0) & (qpos[2] <= 2.0)


@dataclasses.dataclass(frozen=True)
class Robot:
    """Reward, end of an episode and first states of a robot."""

    reward: Callable[[Array, Array, Array, Array], Array]
    """``(speeds [M], a [U], u [U], forces [bodies, 6])`` -> the reward of a step."""
    is_healthy: Callable[[Array, Array], Array] = _always
    """``(qpos, qvel)`` -> whether the episode goes on, [] bool."""
    reset_noise_qpos: float = 0.1
    """First positions are the model's, plus up to this to either side."""
    reset_noise_qvel: float = 0.1
    """First velocities are normal with this deviation, or up to this to either side."""
    normal_speeds: bool = True
    """Whether first velocities are normal; else they are uniform."""
    roots: tuple[int, ...] = (0,)
    """Entries of qpos whose speeds are rewarded."""
    use_com_velocity: bool = False
    """Whether the speed of the centre of mass is rewarded instead."""
    excluded_qpos: tuple[int, ...] = (0, 1)
    """Entries of qpos that are not observed: the distance that the robot has covered."""
    max_obs_velocity: float = float("inf")
    """Observed velocities are clipped to this, to either side."""
    forces: bool = False
    """Whether the reward needs the external forces."""

    def begin(self, key: Array, start: Array, num_speeds: int) -> tuple[Array, Array]:
        """Draws the first positions and velocities of an episode.

        Args:
            key: Typed key of the draws.
            start: Positions of the model's first pose, [nq].
            num_speeds: Number of velocities, nv.

        Returns:
            ``(qpos, qvel)``, [nq] and [nv].
        """
        qpos_key, qvel_key = jax.random.split(key)
        qpos = start + jax.random.uniform(
            qpos_key, start.shape, start.dtype, -self.reset_noise_qpos, self.reset_noise_qpos
        )
        if self.normal_speeds:
            return qpos, self.reset_noise_qvel * jax.random.normal(
                qvel_key, (num_speeds,), start.dtype
            )
        return qpos, self.reset_noise_qvel * jax.random.uniform(
            qvel_key, (num_speeds,), start.dtype, -1.0, 1.0
        )


def _ant_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    """Returns ``x' - 0.5 Σ a² - 5e-4 Σ clip(f, -1, 1)² + 1``."""
    contact = jnp.square(jnp.clip(forces, -1.0, 1.0)).sum()
    return speed[0] - 0.5 * jnp.square(action).sum() - 5e-4 * contact + 1.0


def _cheetah_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    """Returns ``x' - 0.1 Σ a²``, for two cheetahs the mean of theirs."""
    return speed.mean() - 0.1 * jnp.square(action).sum() / speed.shape[0]


def _hopper_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    """Returns ``x' - 1e-3 Σ a² + 1``."""
    return speed[0] - 1e-3 * jnp.square(action).sum() + 1.0


def _humanoid_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    """Returns ``1.25 x' - 0.1 Σ u² - min(5e-7 Σ f², 10) + 5``."""
    impact = jnp.minimum(5e-7 * jnp.square(forces).sum(), 10.0)
    return 1.25 * speed[0] - 0.1 * jnp.square(signal).sum() - impact + 5.0


def _swimmer_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    """Returns ``x' - 1e-4 Σ a²``."""
    return speed[0] - 1e-4 * jnp.square(action).sum()


_ANT = Robot(_ant_reward, _ant_stands, forces=True)
_SWIMMER = Robot(_swimmer_reward, normal_speeds=False)
_HOPPER = Robot(
    _hopper_reward, _hopper_stands, 0.005, 0.005, False, excluded_qpos=(0,), max_obs_velocity=10.0
)
ROBOTS: dict[str, Robot] = {
    "ant": _ANT,
    "manyagent-ant": _ANT,
    "halfcheetah": Robot(_cheetah_reward, excluded_qpos=(0,)),
    "hopper": _HOPPER,
    "walker2d": dataclasses.replace(_HOPPER, is_healthy=_walker_stands),
    "humanoid": Robot(
        _humanoid_reward, _humanoid_stands, 0.01, 0.01, False, use_com_velocity=True, forces=True
    ),
    "swimmer": _SWIMMER,
    "manyagent-swimmer": _SWIMMER,
    "coupled-halfcheetah": Robot(_cheetah_reward, roots=(0, 9), excluded_qpos=(0, 9)),
}
"""Robot -> its task."""


Agents = tuple[tuple[str, ...], ...]
"""The names of each agent's joints."""

_LEGS = tuple((f"hip_{k}", f"ankle_{k}") for k in range(1, 5))
_BACK, _FRONT = ("bfoot", "bshin", "bthigh"), ("ffoot", "fshin", "fthigh")
_SECOND = tuple(f"second_{name}" for name in (*_BACK, *_FRONT))
_UPPER = (
    "left_shoulder1",
    "left_shoulder2",
    "abdomen_x",
    "abdomen_y",
    "abdomen_z",
    "right_shoulder1",
    "right_shoulder2",
    "right_elbow",
    "left_elbow",
)
_LOWER = (
    "left_hip_x",
    "left_hip_y",
    "left_hip_z",
    "right_hip_x",
    "right_hip_y",
    "right_hip_z",
    "right_knee",
    "left_knee",
)


def _one_each(joints: Sequence[str]) -> Agents:
    """Returns agents with one joint each."""
    return tuple((joint,) for joint in joints)


NAMED: dict[str, dict[str, Agents]] = {
    "ant": {
        "2x4": (_LEGS[0] + _LEGS[1], _LEGS[2] + _LEGS[3]),
        "2x4d": (_LEGS[0] + _LEGS[2], _LEGS[1] + _LEGS[3]),
        "4x2": _LEGS,
        "8x1": _one_each(sum(_LEGS, ())),
    },
    "halfcheetah": {
        "2x3": (_BACK, _FRONT),
        "3x2": (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh")),
        "6x1": _one_each((*_BACK, *_FRONT)),
    },
    "hopper": {"3x1": _one_each(("thigh_joint", "leg_joint", "foot_joint"))},
    "humanoid": {"9|8": (_UPPER, _LOWER), "17x1": _one_each((*_UPPER, *_LOWER))},
    "swimmer": {"2x1": _one_each(("motor1_rot", "motor2_rot"))},
    "walker2d": {
        "2x3": (
            ("foot_joint", "leg_joint", "thigh_joint"),
            ("foot_left_joint", "leg_left_joint", "thigh_left_joint"),
        )
    },
    "coupled-halfcheetah": {"1p1": ((*_BACK, *_FRONT), _SECOND)},
}
"""Robot of one size -> partition -> the joints of each agent, in the paper's order."""

SEGMENTED = {"manyagent-ant": 2, "manyagent-swimmer": 2}
"""Robot of any size, ``<agents>x<segments of each>`` -> the fewest segments it can have."""


def segments(
    num_agents: int, segments_each: int, segment_joints: Sequence[Sequence[str]]
) -> Agents:
    """Returns agents that own neighbouring segments.

    Args:
        num_agents: N, the number of agents.
        segments_each: Number of segments of each agent.
        segment_joints: Joints of every segment.

    Returns:
        The joints of each agent.
    """
    return tuple(
        sum(map(tuple, segment_joints[i * segments_each : (i + 1) * segments_each]), ())
        for i in range(num_agents)
    )


def consecutive(agents: Agents, actuated: Sequence[str]) -> Agents:
    """Returns consecutive slices of the actuators in the model's order.

    The reference implementation cuts them so.

    Args:
        agents: Joints of each agent, which set the lengths of the slices.
        actuated: Joint of every actuator, in the model's order.

    Returns:
        The joints of each agent.
    """
    slices, start = [], 0
    for joints in agents:
        slices.append(tuple(actuated[start : start + len(joints)]))
        start += len(joints)
    return tuple(slices)


_EDGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "ant": (*_LEGS, ("hip_1", "hip_2", "hip_3", "hip_4")),
    "halfcheetah": (*pairwise(_BACK), ("bthigh", "fthigh"), *pairwise(reversed(_FRONT))),
    "hopper": (("foot_joint", "leg_joint"), ("leg_joint", "thigh_joint")),
    "humanoid": (
        ("abdomen_x", "abdomen_y", "abdomen_z"),
        *(
            (f"{side}_elbow", f"{side}_shoulder1", f"{side}_shoulder2")
            for side in ("left", "right")
        ),
        *(
            (f"{side}_hip_x", f"{side}_hip_y", f"{side}_hip_z", f"{side}_knee")
            for side in ("left", "right")
        ),
        *(
            (f"{side}_shoulder1", f"{side}_shoulder2", "abdomen_x", "abdomen_y", "abdomen_z")
            for side in ("left", "right")
        ),
        *(
            (
                f"{side}_hip_x",
                f"{side}_hip_y",
                f"{side}_hip_z",
                "abdomen_x",
                "abdomen_y",
                "abdomen_z",
            )
            for side in ("left", "right")
        ),
    ),
    "swimmer": (("motor1_rot", "motor2_rot"),),
    "walker2d": (
        ("foot_joint", "leg_joint"),
        ("leg_joint", "thigh_joint"),
        ("foot_left_joint", "leg_left_joint"),
        ("leg_left_joint", "thigh_left_joint"),
        ("thigh_joint", "thigh_left_joint"),
    ),
    "coupled-halfcheetah": (
        *pairwise(_BACK),
        ("bthigh", "fthigh"),
        *pairwise(reversed(_FRONT)),
        *(pairwise(_SECOND[:3])),
        ("second_bthigh", "second_fthigh"),
        *pairwise(reversed(_SECOND[3:])),
    ),
}


def edges(robot: str, segment_joints: Sequence[Sequence[str]] = ()) -> tuple[tuple[str, ...], ...]:
    """Returns sets of joints that are neighbors of each other.

    Args:
        robot: Name of the robot.
        segment_joints: Joints of every segment of a robot of any size; unused for others.

    Returns:
        The sets; all joints of a set are neighbors.
    """
    if robot == "manyagent-ant":
        within_segments = [
            pair
            for hip1, ankle1, hip2, ankle2 in segment_joints
            for pair in ((hip1, ankle1), (hip2, ankle2), (hip1, hip2))
        ]
        between_segments = [
            (segment[0], segment[2], next_segment[0], next_segment[2])
            for segment, next_segment in pairwise(segment_joints)
        ]
        return (*within_segments, *between_segments)
    if robot == "manyagent-swimmer":
        return tuple(
            (segment[0], next_segment[0]) for segment, next_segment in pairwise(segment_joints)
        )
    return _EDGES[robot]


def joints_within(
    agent_joints: Sequence[str], joint_edges: Sequence[Sequence[str]], distance: int
) -> tuple[str, ...]:
    """Returns joints at most ``distance`` edges from an agent's own.

    Args:
        agent_joints: The agent's own joints.
        joint_edges: Sets of neighboring joints, from `edges`.
        distance: Largest number of edges.

    Returns:
        The agent's own joints, then the others, the nearest first, each distance in order of its
        names.
    """
    joints = list(agent_joints)
    frontier = set(agent_joints)
    for _ in range(distance):
        neighbors = {joint for edge in joint_edges if frontier & set(edge) for joint in edge}
        frontier = neighbors - set(joints)
        if not frontier:
            break
        joints += sorted(frontier)
    return tuple(joints)
