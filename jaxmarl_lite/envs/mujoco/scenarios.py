"""Names of the robots' tasks: ``safe-mujoco/...``, ``safe-velocity/...`` and ``mujoco/...``.

Those of ``mujoco/...`` have no costs.

Reading a name costs nothing: MuJoCo is imported only when an environment is built.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from jaxmarl_lite.envs.mujoco.environment import MujocoEnvironment

_Limit = float | tuple[float, ...] | None

SUITES = ("safe-mujoco", "safe-velocity", "mujoco")
"""First parts of the names."""

COST_FUNCTIONS: dict[str, CostFunction] = {
    "ant": CorridorCost(half_width=5.0, limit=10.0),
    "manyagent-ant": CorridorCost(half_width=4.5, limit=10.0),
    "humanoid": CorridorCost(half_width=2.3, limit=10.0),
    "manyagent-swimmer": CorridorCost(half_width=2.3, limit=10.0, falls=False),
    "halfcheetah": BombCost(limit=5.0),
    "coupled-halfcheetah": BombCost(limit=5.0, distance=5.0, start=-34.0, furthest=-4.0),
    "hopper": BoxCost(limit=10.0),
}
"""Robot -> its hazard in ``safe-mujoco``, and the limit in expected cost per episode: the ant's is
that of the published script, the cheetah's that of the published README, which has 0.2 and 1 for
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
"""Task -> the speed above which a step costs 1, as in Safety-Gymnasium's multi-agent suite."""

_CHOICES = {
    "observation": ("all", "near"),
    "costs": ("team", "own"),
    "physics": ("fast", "reference"),
    "partition": ("paper", "authors"),
    **dict.fromkeys(("standardize", "agent_id", "outside"), (True, False)),
}
_ALL_KEYWORDS = (
    *_CHOICES,
    "distance",
    "max_episode_steps",
    "segments",
    "cost_limit",
    "threshold",
)

_MAX_INT = 10**9
"""Highest whole number that a keyword may be: steps are counted in 32 bits."""
_ENV_KEYWORDS = (
    "observation",
    "distance",
    "standardize",
    "agent_id",
    "costs",
    "physics",
    "max_episode_steps",
)


def examples() -> list[tuple[str, str]]:
    """Returns names to start from, with a description of their agents and actions.

    Returns:
        ``(name, description)`` of each environment.
    """
    rows = []
    for suite in SUITES:
        for name in _names_of(suite):
            robot, partition = _split(name)
            rows.append((f"{suite}/{name}", _describe(robot, partition)))
    return rows


def name_patterns() -> list[str]:
    """Returns the patterns of the names, in readable form.

    Returns:
        A pattern per suite.
    """
    return [f"{suite}/<robot>-<partition>" for suite in SUITES]


def _names_of(suite: str) -> list[str]:
    """Returns the names to start from of a suite, without the suite."""
    if suite == "safe-velocity":
        return list(VELOCITIES)
    robots = (
        COST_FUNCTIONS
        if suite == "safe-mujoco"
        else {**COST_FUNCTIONS, "swimmer": None, "walker2d": None}
    )
    named = [
        f"{robot}-{partition}"
        for robot in robots
        for partition in partitions.NAMED.get(robot, {})
        if partition != "1p1"
    ]
    several = [
        "manyagent-ant-2x3",
        "manyagent-ant-3x2",
        "manyagent-ant-6x1",
        "manyagent-swimmer-10x2",
    ]
    return [*named, *several, "coupled-halfcheetah"]


def _split(name: str) -> tuple[str, str]:
    """Returns robot and partition of a name."""
    if name in ("coupled-halfcheetah", "coupled-halfcheetah-1p1"):
        return "coupled-halfcheetah", "1p1"
    robot, _, partition = name.rpartition("-")
    if name.endswith("-9-8"):  # for shells, in which | means something
        robot, partition = name[: -len("-9-8")], "9|8"
    return robot, partition


def _describe(robot: str, partition: str) -> str:
    """Describes the agents and actions of a partition in words."""
    if robot in partitions.SEGMENTED:
        num_agents, segments_each = map(int, partition.split("x"))
        sizes = [segments_each * (4 if robot == "manyagent-ant" else 1)] * num_agents
    else:
        sizes = [len(joints) for joints in partitions.NAMED[robot][partition]]
    unequal = "" if len(set(sizes)) == 1 else f" ({' and '.join(map(str, sizes))})"
    dimensions = f"{max(sizes)} continuous dimension" + "s" * (max(sizes) > 1)
    return f"{len(sizes)} agents, {dimensions}{unequal}, at most 1000 steps"


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> MujocoEnvironment:
    """Builds the environment of a name.

    Args:
        suite: First part of the name, one of `SUITES`.
        name: ``<robot>-<partition>``.
        keywords: Keywords; `jaxmarl_lite.envs.mujoco` describes them.

    Returns:
        The environment.

    Raises:
        ValueError: A robot, partition or keyword is unknown, or a value is not allowed.
        ImportError: MuJoCo is missing; the message says what to install.
    """
    env_id = f"{suite}/{name}"
    robot, partition = _split(name)
    robots = _robots_of(suite)
    if robot not in robots:
        raise unknown_name_error(
            "environment",
            env_id,
            [f"{suite}/{known}" for known in _names_of(suite)],
            f"Allowed in {suite}: {', '.join(_allowed_names(suite))}.",
        )
    agents, segments = _agents_of(env_id, robot, partition, keywords.get("segments"))
    cost_function = _cost_function_of(suite, robot, partition)
    if suite == "safe-velocity" and cost_function is None:
        raise unknown_name_error(
            "environment", env_id, [f"{suite}/{known}" for known in VELOCITIES]
        )
    if "costs" in keywords and "costs" not in _allowed_keywords(cost_function, robot):
        raise ValueError(
            f"costs of {env_id} is {keywords['costs']!r}; allowed is no such keyword: only in a "
            "corridor, and for two cheetahs, can the agents' costs be separated"
        )
    check_names(env_id, keywords, _allowed_keywords(cost_function, robot))
    for field, allowed in _CHOICES.items():
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
                field: check_int(f"{field} of {env_id}", keywords[field], lowest, _MAX_INT),
            }
    threshold = keywords.get("threshold", 1.0)
    if not check_number(f"threshold of {env_id}", threshold, 0.0) > 0:
        raise invalid(f"threshold of {env_id}", threshold, "a speed above 0, in m/s")
    # only now, when all names and keywords are sound, is MuJoCo imported
    _require(env_id)
    from jaxmarl_lite.envs.mujoco import models
    from jaxmarl_lite.envs.mujoco.environment import MujocoEnvironment

    physics = keywords.get("physics", "fast")
    body = models.build(robot, segments, physics)
    if segments:
        num_agents, segments_each = map(int, partition.split("x"))
        agents = partitions.segments(num_agents, segments_each, body.joints)
    if keywords.get("partition") == "authors":
        agents = partitions.consecutive(agents, body.actuated)
    env_keywords = {name: keywords[name] for name in _ENV_KEYWORDS if name in keywords}
    cost_function, limit = _apply_keywords(env_id, cost_function, keywords, len(agents))
    return MujocoEnvironment(env_id, robot, agents, segments, cost_function, limit, **env_keywords)


def _robots_of(suite: str) -> list[str]:
    """Returns the robots of a suite."""
    if suite == "safe-velocity":
        return list(dict.fromkeys(_split(name)[0] for name in VELOCITIES))
    return list(COST_FUNCTIONS) + ([] if suite == "safe-mujoco" else ["swimmer", "walker2d"])


def _allowed_names(suite: str) -> list[str]:
    """Returns the allowed names of a suite, or their patterns."""
    if suite == "safe-velocity":
        return list(VELOCITIES)
    named = [
        f"{robot}-{{{','.join(partitions.NAMED[robot])}}}"
        for robot in _robots_of(suite)
        if robot in partitions.NAMED
    ]
    return named + [
        f"{robot}-<agents>x<segments of each>"
        for robot in _robots_of(suite)
        if robot in partitions.SEGMENTED
    ]


def _agents_of(
    env_id: str, robot: str, partition: str, segments: Any
) -> tuple[partitions.Agents, int]:
    """Returns the joints of each agent, for robots of one size, or the number of segments.

    Raises:
        ValueError: The partition does not exist, or does not cover the segments.
    """
    if robot not in partitions.SEGMENTED:
        if partition not in partitions.NAMED[robot]:
            raise unknown_name_error(f"partition of {robot}:", partition, partitions.NAMED[robot])
        return partitions.NAMED[robot][partition], 0
    match = re.fullmatch(r"(\d+)x(\d+)", partition)
    num_segments = int(match[1]) * int(match[2]) if match else 0
    lowest = partitions.SEGMENTED[robot]
    if num_segments < lowest:
        raise ValueError(
            f"partition of {env_id} is {partition!r}; allowed is <agents>x<segments of each>, with "
            f"{lowest} segments or more"
        )
    if segments is not None:
        segments = check_int(f"segments of {env_id}", segments, lowest, _MAX_INT)
    if segments not in (None, num_segments):
        fitting = [
            f"{n}x{segments // n}" for n in range(1, int(segments) + 1) if int(segments) % n == 0
        ]
        raise ValueError(
            f"partition of {env_id} covers {num_segments} segments, but segments is {segments}; "
            f"allowed is {', '.join(fitting)}"
        )
    return (), num_segments


def _cost_function_of(suite: str, robot: str, partition: str) -> CostFunction | None:
    """Returns the cost of a task, or None where there is none."""
    if suite == "safe-velocity":
        return VELOCITIES.get(f"{robot}-{partition}")
    return COST_FUNCTIONS[robot] if suite == "safe-mujoco" else None


def _allowed_keywords(cost_function: CostFunction | None, robot: str) -> list[str]:
    """Returns the keywords that a task allows."""
    absent = set()
    if cost_function is None:
        absent |= {"costs", "cost_limit"}
    elif not cost_function.per_agent and robot != "coupled-halfcheetah":
        absent |= {"costs"}  # one robot has one speed, and one distance to the bomb
    if not isinstance(cost_function, CorridorCost):
        absent |= {"outside"}
    if not isinstance(cost_function, VelocityCost):
        absent |= {"threshold"}
    if robot not in partitions.SEGMENTED:
        absent |= {"segments"}
    return [name for name in _ALL_KEYWORDS if name not in absent]


def _apply_keywords(
    env_id: str, cost_function: CostFunction | None, keywords: Mapping[str, Any], num_agents: int
) -> tuple[CostFunction | None, _Limit]:
    """Returns the cost as the keywords configure it, and the limit.

    Raises:
        ValueError: The limit is not allowed.
    """
    changes = {name: keywords[name] for name in ("outside", "threshold") if name in keywords}
    if cost_function is None:
        return None, None
    if isinstance(cost_function, CorridorCost):
        changes["level"] = keywords.get("costs") == "own"
    limit: Any = keywords.get("cost_limit")
    if isinstance(limit, Mapping):
        check_names(f"cost_limit of {env_id}", limit, [cost_function.name])
        limit = limit.get(cost_function.name)
    if limit is not None:
        limit = check_limit(f"cost_limit of {env_id}", limit)
        if isinstance(limit, tuple) and len(limit) not in (1, num_agents):
            raise invalid(
                f"cost_limit of {env_id}",
                limit,
                f"a number from 0 up, or {num_agents}, one per agent",
            )
        limit = limit[0] if limit and isinstance(limit, tuple) and len(limit) == 1 else limit
    return dataclasses.replace(cost_function, **changes), limit


def _require(env_id: str) -> None:
    """Raises ImportError, with what to install, where MuJoCo is missing."""
    missing = [name for name in ("mujoco", "mujoco.mjx", "gymnasium") if not _is_installed(name)]
    if missing:
        raise ImportError(f"{env_id} needs {' and '.join(missing)}: install 'jaxmarl-lite[mujoco]'")


def _is_installed(name: str) -> bool:
    """Returns whether a module can be found; MuJoCo is not imported for that."""
    package, _, submodule = name.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not submodule:
        return spec is not None
    return (
        importlib.machinery.PathFinder.find_spec(submodule, spec.submodule_search_locations)
        is not None
    )
