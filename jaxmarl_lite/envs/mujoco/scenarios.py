"""Names of the robots' tasks: ``safe-mujoco/...``, ``safe-velocity/...`` and, without costs,
``mujoco/...``.

Reading a name costs nothing: MuJoCo is imported only when an environment is built.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from jaxmarl_lite.envs.errors import check_names, unknown_name_error
from jaxmarl_lite.envs.mujoco import partitions
from jaxmarl_lite.envs.mujoco.cost_functions import (
    BombCost,
    BoxCost,
    CorridorCost,
    CostFunction,
    VelocityCost,
)
from jaxmarl_lite.validation import check_int, check_limit, check_number, invalid

SUITES = ("safe-mujoco", "safe-velocity", "mujoco")

COST_FUNCTIONS: dict[str, CostFunction] = {
    "ant": CorridorCost(half_width=5.0, limit=10.0),
    "manyagent-ant": CorridorCost(half_width=4.5, limit=10.0),
    "humanoid": CorridorCost(half_width=2.3, limit=10.0),
    "manyagent-swimmer": CorridorCost(half_width=2.3, limit=10.0, falls=False),
    "halfcheetah": BombCost(limit=5.0),
    "coupled-halfcheetah": BombCost(limit=5.0, distance=5.0, start=-34.0, furthest=-4.0),
    "hopper": BoxCost(limit=10.0),
}
"""Robot -> what is dangerous in ``safe-mujoco``, and its limit in expected cost per episode: the
ant's is that of the authors' script, the cheetah's that of their README, which has 0.2 and 1 for
the ants; the others are ours."""

VELOCITIES: dict[str, CostFunction] = {
    "ant-2x4": VelocityCost(25.0, 2.522, plane=True),
    "ant-4x2": VelocityCost(25.0, 2.418, plane=True),
    "halfcheetah-2x3": VelocityCost(25.0, 3.227, plane=False),
    "halfcheetah-6x1": VelocityCost(25.0, 2.932, plane=False),
    "hopper-3x1": VelocityCost(25.0, 0.9613, plane=False),
    "humanoid-9|8": VelocityCost(25.0, 0.58, plane=True),
    "swimmer-2x1": VelocityCost(25.0, 0.04891, plane=True),
    "walker2d-2x3": VelocityCost(25.0, 1.641, plane=False),
}
"""Task -> speed above which a step costs 1, as in Safety-Gymnasium's multi-agent suite."""

_FIELDS = {
    "observation": ("all", "near"),
    "costs": ("team", "own"),
    "physics": ("fast", "reference"),
    "partition": ("paper", "authors"),
    **dict.fromkeys(("standardize", "agent_id", "outside"), (True, False)),
}
_KEYWORDS = (
    *_FIELDS,
    "distance",
    "max_episode_steps",
    "segments",
    "cost_limit",
    "threshold",
)

_MOST = 10**9
"""The highest whole number that a keyword may be: steps are counted in 32 bits."""
_PASSED_ON = (
    "observation",
    "distance",
    "standardize",
    "agent_id",
    "costs",
    "physics",
    "max_episode_steps",
)


def examples() -> list[tuple[str, str]]:
    """Names to start from, each with its agents and actions in words."""
    rows = []
    for room in SUITES:
        for name in _names(room):
            robot, conf = _split(name)
            rows.append((f"{room}/{name}", _words(robot, conf)))
    return rows


def name_patterns() -> list[str]:
    """The patterns of the names, as a person reads them."""
    return [f"{room}/<robot>-<partition>" for room in SUITES]


def _names(room: str) -> list[str]:
    if room == "safe-velocity":
        return list(VELOCITIES)
    robots = (
        COST_FUNCTIONS
        if room == "safe-mujoco"
        else {**COST_FUNCTIONS, "swimmer": None, "walker2d": None}
    )
    named = [
        f"{robot}-{conf}"
        for robot in robots
        for conf in partitions.NAMED.get(robot, {})
        if conf != "1p1"
    ]
    several = [
        "manyagent-ant-2x3",
        "manyagent-ant-3x2",
        "manyagent-ant-6x1",
        "manyagent-swimmer-10x2",
    ]
    return [*named, *several, "coupled-halfcheetah"]


def _split(name: str) -> tuple[str, str]:
    """Robot and partition."""
    if name in ("coupled-halfcheetah", "coupled-halfcheetah-1p1"):
        return "coupled-halfcheetah", "1p1"
    robot, _, conf = name.rpartition("-")
    if name.endswith("-9-8"):  # for shells, in which | means something
        robot, conf = name[: -len("-9-8")], "9|8"
    return robot, conf


def _words(robot: str, conf: str) -> str:
    if robot in partitions.SEGMENTED:
        agents, each = map(int, conf.split("x"))
        sizes = [each * (4 if robot == "manyagent-ant" else 1)] * agents
    else:
        sizes = [len(own) for own in partitions.NAMED[robot][conf]]
    unequal = "" if len(set(sizes)) == 1 else f" ({' and '.join(map(str, sizes))})"
    dimensions = f"{max(sizes)} continuous dimension" + "s" * (max(sizes) > 1)
    return f"{len(sizes)} agents, {dimensions}{unequal}, at most 1000 steps"


def build(room: str, name: str, keywords: Mapping[str, Any]) -> Any:
    """The environment of a name; ValueError for an unknown robot, partition or keyword."""
    env_id = f"{room}/{name}"
    robot, conf = _split(name)
    robots = _robots(room)
    if robot not in robots:
        raise unknown_name_error(
            "environment",
            env_id,
            [f"{room}/{known}" for known in _names(room)],
            f"Allowed in {room}: {', '.join(_allowed(room))}.",
        )
    agents, segments = _agents_of(env_id, robot, conf, keywords.get("segments"))
    danger = _danger(room, robot, conf)
    if room == "safe-velocity" and danger is None:
        raise unknown_name_error("environment", env_id, [f"{room}/{known}" for known in VELOCITIES])
    if "costs" in keywords and "costs" not in _allowed_keywords(danger, robot):
        raise ValueError(
            f"costs of {env_id} is {keywords['costs']!r}; allowed is no such keyword: only in a "
            "corridor, and of two "
            "cheetahs, can agents be told apart by what they are near"
        )
    check_names(env_id, keywords, _allowed_keywords(danger, robot))
    for field, allowed in _FIELDS.items():
        value = keywords.get(field, allowed[0])
        if not any(
            value is choice or (isinstance(value, str) and value == choice) for choice in allowed
        ):
            raise ValueError(
                f"{field} of {env_id} is {value!r}; allowed is one of "
                f"{', '.join(map(str, allowed))}"
            )
    for field, lowest in (("distance", 0), ("max_episode_steps", 1)):
        if field in keywords:
            keywords = {
                **keywords,
                field: check_int(f"{field} of {env_id}", keywords[field], lowest, _MOST),
            }
    threshold = keywords.get("threshold", 1.0)
    if not check_number(f"threshold of {env_id}", threshold, 0.0) > 0:
        raise invalid(f"threshold of {env_id}", threshold, "a speed above 0, in m/s")
    _require(env_id)
    from jaxmarl_lite.envs.mujoco import models
    from jaxmarl_lite.envs.mujoco.environment import MujocoEnvironment

    physics = keywords.get("physics", "fast")
    body = models.build(robot, segments, physics)
    if segments:
        count, each = map(int, conf.split("x"))
        agents = partitions.segments(count, each, body.joints)
    if keywords.get("partition") == "authors":
        agents = partitions.consecutive(agents, body.actuated)
    given = {name: keywords[name] for name in _PASSED_ON if name in keywords}
    danger, limit = _adjusted(env_id, danger, keywords, len(agents))
    return MujocoEnvironment(env_id, robot, agents, segments, danger, limit, **given)


def _robots(room: str) -> list[str]:
    if room == "safe-velocity":
        return list(dict.fromkeys(_split(name)[0] for name in VELOCITIES))
    return list(COST_FUNCTIONS) + ([] if room == "safe-mujoco" else ["swimmer", "walker2d"])


def _allowed(room: str) -> list[str]:
    if room == "safe-velocity":
        return list(VELOCITIES)
    named = [
        f"{robot}-{{{','.join(partitions.NAMED[robot])}}}"
        for robot in _robots(room)
        if robot in partitions.NAMED
    ]
    return named + [
        f"{robot}-<agents>x<segments of each>"
        for robot in _robots(room)
        if robot in partitions.SEGMENTED
    ]


def _agents_of(env_id: str, robot: str, conf: str, total: Any) -> tuple[partitions.Agents, int]:
    """The joints of each agent, for robots of one size, or the number of segments."""
    if robot not in partitions.SEGMENTED:
        if conf not in partitions.NAMED[robot]:
            raise unknown_name_error(f"partition of {robot}:", conf, partitions.NAMED[robot])
        return partitions.NAMED[robot][conf], 0
    match = re.fullmatch(r"(\d+)x(\d+)", conf)
    number = int(match[1]) * int(match[2]) if match else 0
    lowest = partitions.SEGMENTED[robot]
    if number < lowest:
        raise ValueError(
            f"partition of {env_id} is {conf!r}; allowed is <agents>x<segments of each>, with "
            f"{lowest} segments or more"
        )
    if total is not None:
        total = check_int(f"segments of {env_id}", total, lowest, _MOST)
    if total not in (None, number):
        fitting = [f"{n}x{total // n}" for n in range(1, int(total) + 1) if int(total) % n == 0]
        raise ValueError(
            f"partition of {env_id} covers {number} segments, but segments is {total}; allowed is "
            f"{', '.join(fitting)}"
        )
    return (), number


def _danger(room: str, robot: str, conf: str) -> CostFunction | None:
    if room == "safe-velocity":
        return VELOCITIES.get(f"{robot}-{conf}")
    return COST_FUNCTIONS[robot] if room == "safe-mujoco" else None


def _allowed_keywords(danger: CostFunction | None, robot: str) -> list[str]:
    absent = set()
    if danger is None:
        absent |= {"costs", "cost_limit"}
    elif not danger.per_agent and robot != "coupled-halfcheetah":
        absent |= {"costs"}  # of one robot there is one speed, and one way to the bomb
    if not isinstance(danger, CorridorCost):
        absent |= {"outside"}
    if not isinstance(danger, VelocityCost):
        absent |= {"threshold"}
    if robot not in partitions.SEGMENTED:
        absent |= {"segments"}
    return [name for name in _KEYWORDS if name not in absent]


def _adjusted(
    env_id: str, danger: CostFunction | None, keywords: Mapping[str, Any], agents: int
) -> tuple[Any, Any]:
    """The danger as the keywords want it, and the limit."""
    changes = {name: keywords[name] for name in ("outside", "threshold") if name in keywords}
    if danger is None:
        return None, None
    if isinstance(danger, CorridorCost):
        changes["level"] = keywords.get("costs") == "own"
    limit: Any = keywords.get("cost_limit")
    if isinstance(limit, Mapping):
        check_names(f"cost_limit of {env_id}", limit, [danger.name])
        limit = limit.get(danger.name)
    if limit is not None:
        limit = check_limit(f"cost_limit of {env_id}", limit)
        if isinstance(limit, tuple) and len(limit) not in (1, agents):
            raise invalid(
                f"cost_limit of {env_id}", limit, f"a number from 0 up, or {agents}, one per agent"
            )
        limit = limit[0] if limit and isinstance(limit, tuple) and len(limit) == 1 else limit
    return dataclasses.replace(danger, **changes), limit


def _require(env_id: str) -> None:
    """Raise ImportError, saying what to install, where MuJoCo is missing."""
    missing = [name for name in ("mujoco", "mujoco.mjx", "gymnasium") if not _there(name)]
    if missing:
        raise ImportError(f"{env_id} needs {' and '.join(missing)}: install 'jaxmarl-lite[mujoco]'")


def _there(name: str) -> bool:
    """Whether a module can be found; MuJoCo is not imported for that."""
    package, _, inside = name.partition(".")
    found = importlib.util.find_spec(package)
    if found is None or not inside:
        return found is not None
    return (
        importlib.machinery.PathFinder.find_spec(inside, found.submodule_search_locations)
        is not None
    )
