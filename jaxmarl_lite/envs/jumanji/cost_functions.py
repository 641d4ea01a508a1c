"""Jumanji's scenarios with costs: ``safe/<scenario>``, and what each cost counts.

Every task below is a function from the Jumanji environment and the task's own keywords to its
costs. Default limits are expected costs per episode and agent. They grow with the episode's limit,
so that they fit every scenario of a family.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.errors import unknown_name_error
from jaxmarl_lite.envs.jumanji import scenarios
from jaxmarl_lite.envs.wrappers.costs import Cost, CostWrapper
from jaxmarl_lite.types import Array
from jaxmarl_lite.validation import check_int, check_number, check_table

LOAD = 5
"""The action of level-based foraging that picks food up."""
ZONES = ((0.25, 0.25, 0.15), (0.7, 0.65, 0.15))
"""The closed zones of search and rescue: place and radius as shares of the world's side."""


def _manhattan(first: Array, second: Array) -> Array:
    """Manhattan distances in cells: ``[N, 2]`` and ``[M, 2]`` to ``[N, M]``."""
    return jnp.abs(first[:, None, :] - second[None, :, :]).sum(-1)


def _sum_over_others(pairs: Array) -> Array:
    """Pairs of an agent and another one: ``[N, N]`` bool without its diagonal."""
    return pairs & ~jnp.eye(pairs.shape[0], dtype=bool)


def crowding(env: Any, distance: int = 1, start: int = 2) -> tuple[Cost, ...]:
    """Cleaner: the other agents within ``distance`` moves of an agent, at each step after the move.

    ``c_i = Σ_{j≠i} 1[|row_i - row_j| + |column_i - column_j| <= distance]``, in agents; walls
    between do not matter. All agents begin in the upper left corner. So the cells within ``start``
    moves of it (-1: none) are free: an agent there neither pays nor is counted, and a team can go
    out one by one. Agents cannot stand still, but two free cells suffice to wait.

    Default limit: ``0.05 (N - 1)`` per step of the time limit, 10 per episode on 10x10 with 3
    agents. Unconstrained training: MAPPO (one seed, 600,000 steps) costs 24 per agent and episode
    with 3 agents on 10x10, and 44 with 5 agents (limit 20; 400,000 steps); random actions cost 13
    and 25. Raises ValueError for a distance below 0 or a start below -1.
    """
    _whole("distance", distance)
    _whole("start", start, lowest=-1)

    def of(state: Any, action: Array, after: Any) -> Array:
        cells = after.agents_locations
        outside = cells.sum(-1) > start
        near = _sum_over_others(_manhattan(cells, cells) <= distance)
        return (near & outside[:, None] & outside[None, :]).sum(-1)

    meaning = f"other agents within {distance} moves, outside the start corner, summed over steps"
    return (Cost("crowding", meaning, of, limit=0.05 * (env.num_agents - 1) * env.time_limit),)


def near_collision(env: Any, distance: int = 1) -> tuple[Cost, ...]:
    """RobotWarehouse: 1 for a robot with another one within ``distance`` cells (Manhattan) after
    the step.

    ``c_i = 1[min_{j≠i} |x_i - x_j| + |y_i - y_j| <= distance]``, in steps. A collision, which ends
    the episode, is counted too: the robots are then on one cell.

    Default limit: ``0.01 (N - 1)`` per step of the time limit, 5 per episode for 2 robots.
    Unconstrained training: MAPPO (5 seeds, 1,000,000 steps) costs 24 per robot and episode in the
    tiny warehouse with 2 robots, and is still learning; random actions cost 7 to 9, in episodes of
    340 steps. Raises ValueError for a distance below 0.
    """
    _whole("distance", distance)

    def of(state: Any, action: Array, after: Any) -> Array:
        where = after.agents.position
        cells = jnp.stack([where.x, where.y], axis=-1)
        return _sum_over_others(_manhattan(cells, cells) <= distance).any(-1)

    meaning = f"steps with another robot within {distance} cells"
    return (
        Cost("near_collision", meaning, of, limit=0.01 * (env.num_agents - 1) * env.time_limit),
    )


def failed_loading(env: Any) -> tuple[Cost, ...]:
    """LevelBasedForaging: 1 for an agent that loads while no food beside it is eaten at this step.

    ``c_i = 1[a_i = load] (1 - max_f 1[f beside i] 1[f is eaten now])``, in attempts. Loading is
    legal beside food only, so what costs is to try without the partners that the food's level asks
    for.

    Default limit: 0.015 per step of the time limit, 1.5 per episode. Unconstrained training: MAPPO
    (one seed, 1,000,000 steps) costs 6 per agent and episode on 8x8 with sight 2, with 2 agents and
    2 foods that need both (return 0.9), after 21 to 27 early on; random actions cost 2.7.
    """

    def of(state: Any, action: Array, after: Any) -> Array:
        eaten_now = after.food_items.eaten & ~state.food_items.eaten
        beside = _manhattan(after.agents.position, after.food_items.position) == 1
        fruit = (beside & eaten_now[None, :]).any(-1)
        return (action == LOAD) & ~fruit

    return (
        Cost(
            "fruitless_loading",
            "attempts to load that got no food",
            of,
            limit=0.015 * env.time_limit,
        ),
    )


def _shortest(start: Array, end: Array, side: float) -> Array:
    """The shortest way from start to end on a torus, coordinate by coordinate."""
    return (end - start + side / 2) % side - side / 2


def _nearest_zone(env: Any, zones: Array, state: Any) -> tuple[Array, Array]:
    """The way to the zone whose edge is nearest, ``[N, 2]``, and the distance to that edge,
    ``[N]``, below 0 inside.

    Both in shares of the world's side.
    """
    way = _shortest(
        state.searchers.pos[:, None, :] / env.generator.env_size, zones[None, :, :2], 1.0
    )  # [N, Z, 2]
    edge = jnp.sqrt(jnp.square(way).sum(-1)) - zones[None, :, 2]  # [N, Z]
    nearest = edge.argmin(-1)[:, None]
    return jnp.take_along_axis(way, nearest[:, :, None], axis=1)[:, 0], jnp.take_along_axis(
        edge, nearest, axis=1
    )[:, 0]


def separation_and_closed_zone(
    env: Any, separation: float = 0.2, zones: tuple[tuple[float, float, float], ...] = ZONES
) -> tuple[Cost, ...]:
    """SearchAndRescue: two costs, both in steps, from the searchers' places after the move, on the
    world's torus.

    ``separation``: 1 for a searcher that is nearer than ``separation`` to another one.
    ``closed_zone``: 1 for a searcher inside one of ``zones``, circles ``(x, y, radius)`` that are
    closed to it, though targets drift through them. All lengths are shares of the world's side.

    Searchers see each other along Jumanji's rays, that is ahead only. So the view gains the way to
    the nearest other searcher, ahead and to the left of the searcher's own heading, and its
    distance, and the same three of the zone with the nearest edge: the way to its centre, and the
    distance to that edge, below 0 inside. The state gains both distances of every searcher.

    Default limits: ``0.0125 (N - 1)`` and 0.05 per step of the time limit, 5 and 20 per episode for
    2 searchers. Unconstrained training: HAPPO (5 seeds, 1,000,000 steps) costs 12 and 53 per
    searcher and episode with 2 searchers and 40 targets (return 25); untrained policies cost 51 and
    55. Raises ValueError for a separation outside of (0, 0.5), no zones, or a zone that does not
    fit into the world.
    """
    if not 0 < check_number("separation", separation) < 0.5:
        raise ValueError(
            f"separation is {separation!r}, but must lie between 0 and 0.5, a share of the "
            "world's side"
        )
    table = _zone_table(zones)
    size = env.generator.env_size

    def too_near(state: Any, action: Array, after: Any) -> Array:
        pos = after.searchers.pos
        gaps = jnp.sqrt(jnp.square(_shortest(pos[:, None, :], pos[None, :, :], size)).sum(-1))
        return _sum_over_others(gaps < separation * size).any(-1)

    def inside(state: Any, action: Array, after: Any) -> Array:
        return _nearest_zone(env, jnp.array(table, float), after)[1] < 0

    def mate_view(state: Any) -> Array:
        return _to_body_frame(state, *_nearest_teammate(env, state))

    def mate_state(state: Any) -> Array:
        return _nearest_teammate(env, state)[1]

    def zone_view(state: Any) -> Array:
        return _to_body_frame(state, *_nearest_zone(env, jnp.array(table, float), state))

    def zone_state(state: Any) -> Array:
        return _nearest_zone(env, jnp.array(table, float), state)[1]

    near = f"steps nearer than {separation:g} sides to another searcher"
    crowd = 0.0125 * (env.num_agents - 1) * env.time_limit
    return (
        Cost("separation", near, too_near, crowd, mate_view, mate_state),
        Cost(
            "closed_zone",
            "steps inside a closed zone",
            inside,
            0.05 * env.time_limit,
            zone_view,
            zone_state,
        ),
    )


def _nearest_teammate(env: Any, state: Any) -> tuple[Array, Array]:
    """For each searcher the way to the nearest other one, and its length, in shares of the world's
    side; alone: 0.
    """
    size, pos = env.generator.env_size, state.searchers.pos
    ways = _shortest(pos[:, None, :], pos[None, :, :], size) / size
    lengths = jnp.sqrt(jnp.square(ways).sum(-1))
    nearest = jnp.where(jnp.eye(len(pos), dtype=bool), jnp.inf, lengths).argmin(-1)
    each = jnp.arange(len(pos))
    return ways[each, nearest], lengths[each, nearest]


def _to_body_frame(state: Any, way: Array, distance: Array) -> Array:
    """``[N, 3]``: a way ``[N, 2]`` as ahead and to the left of each searcher, and a distance."""
    cos, sin = jnp.cos(state.searchers.heading), jnp.sin(state.searchers.heading)
    ahead, left = cos * way[:, 0] + sin * way[:, 1], cos * way[:, 1] - sin * way[:, 0]
    return jnp.stack([ahead, left, distance], axis=-1)


def _zone_table(zones: Any) -> tuple[tuple[float, ...], ...]:
    try:
        table = check_table("zones", zones)
    except ValueError:
        table = ()
    fits = all(
        len(zone) == 3 and 0 <= min(zone[:2]) <= max(zone[:2]) <= 1 and 0 < zone[2] < 0.5
        for zone in table
    )
    if not table or not fits:
        allowed = (
            "a tuple of (x, y, radius) with x and y between 0 and 1 and the radius between "
            "0 and 0.5"
        )
        raise ValueError(f"zones is {zones!r}, but must be {allowed}, shares of the world's side")
    return table


def _whole(name: str, value: Any, lowest: int = 0) -> None:
    check_int(name, value, lowest)


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of scenarios with costs."""

    costs: Callable[..., tuple[Cost, ...]]
    """Costs from the Jumanji environment and the task's keywords."""
    examples: tuple[str, ...]
    """Scenario names to start from."""

    @property
    def keywords(self) -> list[str]:
        """Names of the keywords that the costs take, and ``cost_limit``."""
        return [*scenarios.keywords_of(self.costs)[1:], "cost_limit"]


TASKS: dict[str, Task] = {
    "Cleaner": Task(crowding, ("cleaner-10x10x3a", "cleaner-10x10x5a")),
    "RobotWarehouse": Task(near_collision, ("rware-tiny-2ag", "rware-tiny-4ag-easy")),
    "LevelBasedForaging": Task(failed_loading, ("lbf-2s-8x8-2p-2f-coop", "lbf-8x8-2p-2f-coop")),
    "SearchAndRescue": Task(
        separation_and_closed_zone, ("search-and-rescue-2s-40t", "search-and-rescue-4s-40t")
    ),
}
"""The tasks by the name of their Jumanji class."""


def families() -> list[tuple[scenarios.ScenarioFamily, Task]]:
    """The families of scenarios that have costs, each with its task."""
    by_class = {family.environment.split(":")[1]: family for family in scenarios.FAMILIES}
    return [(by_class[name], task) for name, task in TASKS.items()]


def examples() -> list[tuple[str, str]]:
    """Scenario names to start from, each with its agents, actions and episode limit in words."""
    return [
        (name, scenarios.describe(family, name))
        for family, task in families()
        for name in task.examples
    ]


def task_of(scenario: str) -> Task:
    """The task of a scenario's name; raises ValueError for a name without costs."""
    for family, task in families():
        if re.fullmatch(family.regex, scenario):
            return task
    forms = ", ".join(family.template for family, _ in families())
    raise unknown_name_error(
        "scenario with costs", scenario, [name for name, _ in examples()], f"Allowed: {forms}."
    )


def constrain(env: Any, scenario: str, keywords: Mapping[str, Any]) -> CostWrapper:
    """The environment of a scenario, with the costs of its task.

    env: a ``JumanjiEnvironment``. keywords: those of the task; ``cost_limit`` maps names of costs
    to limits, which replace the task's own, or is the limit itself where there is one cost. Raises
    ValueError, naming the scenario, for a keyword's value that cannot be.
    """
    options = dict(keywords)
    limit = options.pop("cost_limit", None)
    try:
        costs = task_of(scenario).costs(env.unwrapped, **options)
        return CostWrapper(env, with_limits(costs, limit))
    except ValueError as error:
        raise ValueError(f"safe/{scenario}: {error}") from error


def with_limits(costs: tuple[Cost, ...], limit: Any) -> tuple[Cost, ...]:
    """The costs with other limits: by their names, or one where there is one cost. ValueError for
    other names.
    """
    if limit is None:
        return costs
    names = [cost.name for cost in costs]
    if not isinstance(limit, Mapping):
        if len(costs) > 1:
            raise ValueError(
                f"cost_limit is {limit!r}, but must be a mapping from any of {', '.join(names)} "
                "to limits"
            )
        limit = {names[0]: limit}
    for name in limit:
        if name not in names:
            raise unknown_name_error("cost in cost_limit:", name, names)
    return tuple(
        dataclasses.replace(cost, limit=limit.get(cost.name, cost.limit)) for cost in costs
    )
