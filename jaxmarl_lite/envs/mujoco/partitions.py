"""Which joints belong to which agent, and which joints are neighbors.

The partitions are those of Peng et al. 2021 (multi-agent MuJoCo) and Gu et al. 2021, each a list of
joints per agent. The authors' wrapper never applies them: it cuts the actuators, in the order of
the model's file, into consecutive slices of the same lengths, by which ``ant-2x4`` and ``ant-2x4d``
become one task. ``consecutive`` gives those slices.
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


def _alone(joints: Sequence[str]) -> Agents:
    return tuple((joint,) for joint in joints)


NAMED: dict[str, dict[str, Agents]] = {
    "ant": {
        "2x4": (_LEGS[0] + _LEGS[1], _LEGS[2] + _LEGS[3]),
        "2x4d": (_LEGS[0] + _LEGS[2], _LEGS[1] + _LEGS[3]),
        "4x2": _LEGS,
        "8x1": _alone(sum(_LEGS, ())),
    },
    "halfcheetah": {
        "2x3": (_BACK, _FRONT),
        "3x2": (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh")),
        "6x1": _alone((*_BACK, *_FRONT)),
    },
    "hopper": {"3x1": _alone(("thigh_joint", "leg_joint", "foot_joint"))},
    "humanoid": {"9|8": (_UPPER, _LOWER), "17x1": _alone((*_UPPER, *_LOWER))},
    "swimmer": {"2x1": _alone(("motor1_rot", "motor2_rot"))},
    "walker2d": {
        "2x3": (
            ("foot_joint", "leg_joint", "thigh_joint"),
            ("foot_left_joint", "leg_left_joint", "thigh_left_joint"),
        )
    },
    "coupled-halfcheetah": {"1p1": ((*_BACK, *_FRONT), _SECOND)},
}
"""Robots of one size: partition -> the joints of each agent, in the paper's order."""

SEGMENTED = {"manyagent-ant": 2, "manyagent-swimmer": 2}
"""Robots of any size, ``<agents>x<segments of each>``, and the fewest segments they can have."""


def segments(agents: int, each: int, joints_of: Sequence[Sequence[str]]) -> Agents:
    """Agents that own ``each`` neighbouring segments: ``joints_of`` has the joints of every
    segment.
    """
    return tuple(sum(map(tuple, joints_of[i * each : (i + 1) * each]), ()) for i in range(agents))


def consecutive(agents: Agents, actuated: Sequence[str]) -> Agents:
    """Slices of the actuators in the model's order, as long as the agents' own parts (the authors'
    program).
    """
    found, start = [], 0
    for own in agents:
        found.append(tuple(actuated[start : start + len(own)]))
        start += len(own)
    return tuple(found)


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


def edges(robot: str, joints_of: Sequence[Sequence[str]] = ()) -> tuple[tuple[str, ...], ...]:
    """Sets of joints that are neighbors of each other; ``joints_of``: the segments' of a robot of
    any size.
    """
    if robot == "manyagent-ant":
        within = [
            pair
            for hip1, ankle1, hip2, ankle2 in joints_of
            for pair in ((hip1, ankle1), (hip2, ankle2), (hip1, hip2))
        ]
        between = [(one[0], one[2], other[0], other[2]) for one, other in pairwise(joints_of)]
        return (*within, *between)
    if robot == "manyagent-swimmer":
        return tuple((one[0], other[0]) for one, other in pairwise(joints_of))
    return _EDGES[robot]


def within(own: Sequence[str], linked: Sequence[Sequence[str]], distance: int) -> tuple[str, ...]:
    """Joints at most ``distance`` edges from an agent's own; the nearest first, each distance in
    order of its name.
    """
    seen = list(own)
    newest = set(own)
    for _ in range(distance):
        reached = {joint for edge in linked if newest & set(edge) for joint in edge}
        newest = reached - set(seen)
        if not newest:
            break
        seen += sorted(newest)
    return tuple(seen)
