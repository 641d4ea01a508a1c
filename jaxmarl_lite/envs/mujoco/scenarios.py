"""Names of the robots' tasks: ``safe-mujoco/...``, ``safe-velocity/...`` and ``mujoco/...``.

Those of ``mujoco/...`` have no costs.

Reading a name costs nothing: MuJoCo is imported only when an environment is built.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxmarl_lite.envs import _import
from jaxmarl_lite.envs.errors import (
    Rule,
    at_least,
    check_keywords,
    check_names,
    one_of,
    positive,
    unchecked,
    unknown_name_error,
)
from jaxmarl_lite.envs.mujoco import tasks
from jaxmarl_lite.envs.mujoco.cost_functions import (
    BombCost,
    BoxCost,
    CorridorCost,
    CostFunction,
    VelocityCost,
)
from jaxmarl_lite.validation import MOST, check_bool, check_int, check_limit, invalid

if TYPE_CHECKING:
    from jaxmarl_lite.envs.mujoco.environment import MujocoEnvironment

_Limit = float | tuple[float, ...] | None

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

_ENV_RULES: dict[str, Rule] = {
    "observation": one_of("all", "near"),
    "distance": at_least(0),
    "standardize": check_bool,
    "agent_id": check_bool,
    "costs": one_of("team", "own"),
    "physics": one_of("fast", "reference"),
    "impl": one_of("jax", "warp"),
    "max_episode_steps": at_least(1),
}
"""Keyword of the environment itself -> the check of its value."""


def examples(suite: str) -> list[tuple[str, str]]:
    """Returns names to start from, with a description of their agents and actions.

    Args:
        suite: First part of the names.

    Returns:
        ``(name, description)`` of each environment.
    """
    return [(f"{suite}/{name}", _describe(*_split(name))) for name in _names_of(suite)]


def name_patterns(suite: str) -> list[str]:
    """Returns the pattern of the names, in readable form.

    Args:
        suite: First part of the names.
    """
    return [f"{suite}/<robot>-<partition>"]


def _robots_of(suite: str) -> list[str]:
    """Returns the robots of a suite."""
    if suite == "safe-velocity":
        return list(dict.fromkeys(_split(name)[0] for name in VELOCITIES))
    return [*COST_FUNCTIONS, *(() if suite == "safe-mujoco" else ("swimmer", "walker2d"))]


def _names_of(suite: str) -> list[str]:
    """Returns the names to start from of a suite, without the suite."""
    if suite == "safe-velocity":
        return list(VELOCITIES)
    named = [
        f"{robot}-{partition}"
        for robot in _robots_of(suite)
        for partition in tasks.NAMED.get(robot, {})
        if partition != "1p1"
    ]
    ants = [f"manyagent-ant-{partition}" for partition in ("2x3", "3x2", "6x1")]
    return [*named, *ants, "manyagent-swimmer-10x2", "coupled-halfcheetah"]


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
    if robot in tasks.SEGMENTED:
        num_agents, segments_each = map(int, partition.split("x"))
        sizes = [segments_each * (4 if robot == "manyagent-ant" else 1)] * num_agents
    else:
        sizes = [len(joints) for joints in tasks.NAMED[robot][partition]]
    unequal = "" if len(set(sizes)) == 1 else f" ({' and '.join(map(str, sizes))})"
    dimensions = f"{max(sizes)} continuous dimension" + "s" * (max(sizes) > 1)
    return f"{len(sizes)} agents, {dimensions}{unequal}, at most 1000 steps"


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> MujocoEnvironment:
    """Builds the environment of a name.

    Args:
        suite: First part of the name.
        name: ``<robot>-<partition>``.
        keywords: Keywords; `jaxmarl_lite.envs.mujoco` describes them.

    Returns:
        The environment.

    Raises:
        ValueError: A robot, partition or keyword is unknown, or a value is not allowed.
        MissingPackageError: MuJoCo, MJX or Gymnasium is missing, or Warp, where it is asked for.
    """
    env_id = f"{suite}/{name}"
    robot, partition = _split(name)
    if robot not in _robots_of(suite):
        known = [f"{suite}/{known}" for known in _names_of(suite)]
        allowed = f"Allowed in {suite}: {', '.join(_allowed_names(suite))}."
        raise unknown_name_error("environment", env_id, known, allowed)
    agents, segments = _agents_of(env_id, robot, partition, keywords.get("segments"))
    cost_function = _cost_function_of(suite, robot, partition)
    if suite == "safe-velocity" and cost_function is None:
        known = [f"{suite}/{known}" for known in VELOCITIES]
        raise unknown_name_error("environment", env_id, known)
    num_agents = len(agents) or int(partition.partition("x")[0])
    rules = _rules(cost_function, robot, num_agents)
    if "costs" in keywords and "costs" not in rules:
        raise invalid(
            f"costs of {env_id}",
            keywords["costs"],
            "no such keyword: only in a corridor, and for two cheetahs, can the agents' costs be "
            "separated",
        )
    settings = check_keywords(env_id, keywords, rules)
    # only now, when all names and keywords are sound, is MuJoCo imported
    _import.require({"mujoco": (), "mujoco.mjx": (), "gymnasium": ()})
    if settings.get("impl") == "warp":
        _import.require({"warp": ()}, extra="warp")
        from jaxmarl_lite.envs.mujoco import warp_physics

        warp_physics.check_platform(env_id)
    from jaxmarl_lite.envs.mujoco import models
    from jaxmarl_lite.envs.mujoco.environment import MujocoEnvironment

    body = models.build(robot, segments, settings.get("physics", "fast"))
    if segments:
        agents = tasks.segments(num_agents, segments // num_agents, body.joints)
    if settings.get("partition") == "authors":
        agents = tasks.consecutive(agents, body.actuated)
    changes = {field: settings[field] for field in ("outside", "threshold") if field in settings}
    if isinstance(cost_function, CorridorCost):
        changes["level"] = settings.get("costs") == "own"
    if cost_function is not None:
        cost_function = dataclasses.replace(cost_function, **changes)
    limit = settings.get("cost_limit")
    env_keywords = {field: settings[field] for field in _ENV_RULES if field in settings}
    return MujocoEnvironment(env_id, robot, agents, segments, cost_function, limit, **env_keywords)


def _allowed_names(suite: str) -> list[str]:
    """Returns the allowed names of a suite, or their patterns."""
    if suite == "safe-velocity":
        return list(VELOCITIES)
    named = [
        f"{robot}-{{{','.join(tasks.NAMED[robot])}}}"
        for robot in _robots_of(suite)
        if robot in tasks.NAMED
    ]
    return named + [
        f"{robot}-<agents>x<segments of each>"
        for robot in _robots_of(suite)
        if robot in tasks.SEGMENTED
    ]


def _agents_of(env_id: str, robot: str, partition: str, segments: Any) -> tuple[tasks.Agents, int]:
    """Returns the joints of each agent, for robots of one size, or the number of segments.

    Raises:
        ValueError: The partition does not exist, or does not cover the segments.
    """
    if robot not in tasks.SEGMENTED:
        if partition not in tasks.NAMED[robot]:
            raise unknown_name_error(f"partition of {robot}:", partition, tasks.NAMED[robot])
        return tasks.NAMED[robot][partition], 0
    match = re.fullmatch(r"(\d+)x(\d+)", partition)
    num_segments = int(match[1]) * int(match[2]) if match else 0
    lowest = tasks.SEGMENTED[robot]
    if num_segments < lowest:
        raise ValueError(
            f"partition of {env_id} is {partition!r}; allowed is <agents>x<segments of each>, with "
            f"{lowest} segments or more"
        )
    if segments is not None:
        segments = check_int(f"segments of {env_id}", segments, lowest, MOST)
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


def _rules(cost_function: CostFunction | None, robot: str, num_agents: int) -> dict[str, Rule]:
    """Returns the keywords that a task takes, each with the check of its value."""
    rules = _ENV_RULES | {"partition": one_of("paper", "authors")}
    # one robot has one speed, and one distance to the bomb
    if cost_function is None or not (cost_function.per_agent or robot == "coupled-halfcheetah"):
        del rules["costs"]
    if cost_function is not None:
        rules["cost_limit"] = functools.partial(_check_limit, cost_function, num_agents)
    if isinstance(cost_function, CorridorCost):
        rules["outside"] = check_bool
    if isinstance(cost_function, VelocityCost):
        rules["threshold"] = positive
    if robot in tasks.SEGMENTED:
        rules["segments"] = unchecked
    return rules


def _check_limit(cost_function: CostFunction, num_agents: int, name: str, limit: Any) -> _Limit:
    """Returns the limit of a cost: one number or one per agent, or a mapping from its name."""
    if isinstance(limit, Mapping):
        check_names(name, limit, [cost_function.name])
        limit = limit.get(cost_function.name)
    if limit is None:
        return None
    limit = check_limit(name, limit, num_agents)
    return limit[0] if isinstance(limit, tuple) and len(limit) == 1 else limit
