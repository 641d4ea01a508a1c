"""Partition of a robot's joints among the agents, and the neighbors of each joint.

The partitions are those of Peng et al. 2021 (multi-agent MuJoCo) and Gu et al. 2021, each a list of
joints per agent. The reference implementation never applies them: it cuts the actuators, in the
order of the model's file, into consecutive slices of the same lengths, by which ``ant-2x4`` and
``ant-2x4d`` become one task. ``consecutive`` returns those slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
