"""Jumanji's scenarios with costs, ``safe/<scenario>``, and the definition of each cost.

Every task below is a function from the Jumanji environment and the task's own keywords to its
costs. Default limits are expected costs per episode and agent. They grow with the episode's limit,
so that they fit every scenario of a family.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.errors import unknown_name_error
from jaxmarl_lite.envs.jumanji import scenarios
from jaxmarl_lite.envs.wrappers import Cost, CostWrapper, with_limits
from jaxmarl_lite.types import Array, PyTree
from jaxmarl_lite.validation import check_int, check_number, check_table

LOAD = 5
"""The action of level-based foraging that picks food up."""
ZONES = ((0.25, 0.25, 0.15), (0.7, 0.65, 0.15))
"""The closed zones of search and rescue, (x, y, radius) each, as shares of the arena's side."""


def _manhattan(first: Array, second: Array) -> Array:
    """Returns Manhattan distances in cells: ``[N, 2]`` and ``[M, 2]`` to ``[N, M]``."""
    return jnp.abs(first[:, None, :] - second[None, :, :]).sum(-1)


def _mask_self_pairs(pairs: Array) -> Array:
    """Returns pairs of an agent and another one: ``[N, N]`` bool, the diagonal set to False."""
    return pairs & ~jnp.eye(pairs.shape[0], dtype=bool)


def crowding(env: Any, distance: int = 1, start: int = 2) -> tuple[Cost, ...]:
    """Returns Cleaner's cost: the other agents within ``distance`` moves of an agent.

    The cost counts at each step, after the move, in agents:
    ``c_i = Σ_{j≠i} 1[|row_i - row_j| + |column_i - column_j| <= distance]``. Walls between agents
    do not matter. All agents begin in the upper left corner. So the cells within ``start`` moves of
    it are free: an agent there neither pays nor is counted, and a team can go out one by one.
    Agents cannot stand still, but two free cells suffice to wait.

    Default limit: ``0.05 (N - 1)`` per step of the time limit, 10 per episode on 10x10 with 3
    agents. Unconstrained training: MAPPO (one seed, 600,000 steps) costs 24 per agent and episode
    with 3 agents on 10x10, and 44 with 5 agents (limit 20; 400,000 steps); random actions cost 13
    and 25.

    Args:
        env: the Jumanji environment.
        distance: moves within which agents are counted, 0 or more.
        start: size of the free corner in moves, 0 or more; -1: no free cells.

    Returns:
        One cost, ``crowding``.

    Raises:
        ValueError: for a distance below 0 or a start below -1.
    """
    check_int("distance", distance, 0)
    check_int("start", start, -1)

    def cost_fn(state: PyTree, action: Array, next_state: PyTree) -> Array:
        cells = next_state.agents_locations
        # the corner is cell (0, 0), so that the sum of row and column is the distance to it
        outside = cells.sum(-1) > start
        near = _mask_self_pairs(_manhattan(cells, cells) <= distance)
        return (near & outside[:, None] & outside[None, :]).sum(-1)

    description = (
        f"other agents within {distance} moves, outside the start corner, summed over steps"
    )
    limit = 0.05 * (env.num_agents - 1) * env.time_limit
    return (Cost("crowding", description, cost_fn, limit=limit),)


def near_collision(env: Any, distance: int = 1) -> tuple[Cost, ...]:
    """Returns RobotWarehouse's cost: 1 for a robot with another one within ``distance`` cells.

    The cost counts steps, by Manhattan distances after the step:
    ``c_i = 1[min_{j≠i} |x_i - x_j| + |y_i - y_j| <= distance]``. A collision, which ends the
    episode, is counted too: the robots are then on one cell.

    Default limit: ``0.01 (N - 1)`` per step of the time limit, 5 per episode for 2 robots.
    Unconstrained training: MAPPO (5 seeds, 1,000,000 steps) costs 24 per robot and episode in the
    tiny warehouse with 2 robots, and is still learning; random actions cost 7 to 9, in episodes of
    340 steps.

    Args:
        env: the Jumanji environment.
        distance: cells within which robots are counted, 0 or more.

    Returns:
        One cost, ``near_collision``.

    Raises:
        ValueError: for a distance below 0.
    """
    check_int("distance", distance, 0)

    def cost_fn(state: PyTree, action: Array, next_state: PyTree) -> Array:
        position = next_state.agents.position
        cells = jnp.stack([position.x, position.y], axis=-1)
        return _mask_self_pairs(_manhattan(cells, cells) <= distance).any(-1)

    description = f"steps with another robot within {distance} cells"
    limit = 0.01 * (env.num_agents - 1) * env.time_limit
    return (Cost("near_collision", description, cost_fn, limit=limit),)


def failed_loading(env: Any) -> tuple[Cost, ...]:
    """Returns LevelBasedForaging's cost: 1 for an agent that loads without getting food.

    The cost counts attempts to load while no food beside the agent is eaten at this step:
    ``c_i = 1[a_i = load] (1 - max_f 1[f beside i] 1[f is eaten now])``. Loading is legal beside
    food only, so the costly attempts are those without the partners that the food's level requires.

    Default limit: 0.015 per step of the time limit, 1.5 per episode. Unconstrained training: MAPPO
    (one seed, 1,000,000 steps) costs 6 per agent and episode on 8x8 with sight 2, with 2 agents and
    2 foods that need both (return 0.9), after 21 to 27 early on; random actions cost 2.7.

    Args:
        env: the Jumanji environment.

    Returns:
        One cost, ``failed_loading``.
    """

    def cost_fn(state: PyTree, action: Array, next_state: PyTree) -> Array:
        eaten_now = next_state.food_items.eaten & ~state.food_items.eaten
        beside = _manhattan(next_state.agents.position, next_state.food_items.position) == 1
        got_food = (beside & eaten_now[None, :]).any(-1)
        return (action == LOAD) & ~got_food

    return (
        Cost(
            "failed_loading",
            "attempts to load that got no food",
            cost_fn,
            limit=0.015 * env.time_limit,
        ),
    )


def _shortest_displacement(start: Array, end: Array, side: float) -> Array:
    """Returns the shortest way from start to end on a torus, coordinate by coordinate."""
    return (end - start + side / 2) % side - side / 2


def _nearest_zone(env: Any, zones: Array, state: PyTree) -> tuple[Array, Array]:
    """Returns the way to the centre of the zone with the nearest edge, and the edge's distance.

    Ways are ``[N, 2]``; distances are ``[N]``, below 0 inside. Both are shares of the arena's side.
    """
    displacement = _shortest_displacement(
        state.searchers.pos[:, None, :] / env.generator.env_size, zones[None, :, :2], 1.0
    )  # [N, Z, 2]
    edge = jnp.sqrt(jnp.square(displacement).sum(-1)) - zones[None, :, 2]  # [N, Z]
    nearest = edge.argmin(-1)[:, None]
    return (
        jnp.take_along_axis(displacement, nearest[:, :, None], axis=1)[:, 0],
        jnp.take_along_axis(edge, nearest, axis=1)[:, 0],
    )


def separation_and_closed_zone(
    env: Any, separation: float = 0.2, zones: tuple[tuple[float, float, float], ...] = ZONES
) -> tuple[Cost, ...]:
    """Returns SearchAndRescue's two costs: nearness to another searcher, and closed zones.

    Both count steps, from the searchers' positions after the move, on the torus of the arena.

    - ``separation``: 1 for a searcher that is nearer than ``separation`` to another one.
    - ``closed_zone``: 1 for a searcher inside one of ``zones``, circles that are closed to it,
      though targets drift through them.

    Searchers observe each other along Jumanji's rays, that is ahead only. So the observation gains
    the way to the nearest other searcher, ahead and to the left of the searcher's own heading, and
    its distance, and the same three of the zone with the nearest edge: the way to its centre, and
    the distance to that edge, below 0 inside. The state gains both distances of every searcher.

    Default limits: ``0.0125 (N - 1)`` and 0.05 per step of the time limit, 5 and 20 per episode for
    2 searchers. Unconstrained training: HAPPO (5 seeds, 1,000,000 steps) costs 12 and 53 per
    searcher and episode with 2 searchers and 40 targets (return 25); untrained policies cost 51 and
    55.

    Args:
        env: the Jumanji environment.
        separation: least distance between searchers, in (0, 0.5), a share of the arena's side.
        zones: circles ``(x, y, radius)``, at least one, in shares of the arena's side.

    Returns:
        The costs ``separation`` and ``closed_zone``.

    Raises:
        ValueError: for a separation outside of (0, 0.5), no zones, or a zone that does not fit into
            the arena.
    """
    if not 0 < check_number("separation", separation) < 0.5:
        raise ValueError(
            f"separation is {separation!r}, but must lie between 0 and 0.5, a share of the "
            "arena's side"
        )
    table = _zone_table(zones)
    size = env.generator.env_size

    def too_near(state: PyTree, action: Array, next_state: PyTree) -> Array:
        pos = next_state.searchers.pos
        distances = jnp.sqrt(
            jnp.square(_shortest_displacement(pos[:, None, :], pos[None, :, :], size)).sum(-1)
        )
        return _mask_self_pairs(distances < separation * size).any(-1)

    def in_zone(state: PyTree, action: Array, next_state: PyTree) -> Array:
        return _nearest_zone(env, jnp.array(table, float), next_state)[1] < 0

    def searcher_view(state: PyTree) -> Array:
        return _to_body_frame(state, *_nearest_searcher(env, state))

    def searcher_state(state: PyTree) -> Array:
        return _nearest_searcher(env, state)[1]

    def zone_view(state: PyTree) -> Array:
        return _to_body_frame(state, *_nearest_zone(env, jnp.array(table, float), state))

    def zone_state(state: PyTree) -> Array:
        return _nearest_zone(env, jnp.array(table, float), state)[1]

    description = f"steps nearer than {separation:g} sides to another searcher"
    separation_limit = 0.0125 * (env.num_agents - 1) * env.time_limit
    return (
        Cost("separation", description, too_near, separation_limit, searcher_view, searcher_state),
        Cost(
            "closed_zone",
            "steps inside a closed zone",
            in_zone,
            0.05 * env.time_limit,
            zone_view,
            zone_state,
        ),
    )


def _nearest_searcher(env: Any, state: PyTree) -> tuple[Array, Array]:
    """Returns for each searcher the way to the nearest other one, ``[N, 2]``, and its length.

    Lengths are ``[N]``. Both are shares of the arena's side; for a single searcher they are 0.
    """
    size, pos = env.generator.env_size, state.searchers.pos
    displacements = _shortest_displacement(pos[:, None, :], pos[None, :, :], size) / size
    lengths = jnp.sqrt(jnp.square(displacements).sum(-1))
    nearest = jnp.where(jnp.eye(len(pos), dtype=bool), jnp.inf, lengths).argmin(-1)
    rows = jnp.arange(len(pos))
    return displacements[rows, nearest], lengths[rows, nearest]


def _to_body_frame(state: PyTree, displacement: Array, distance: Array) -> Array:
    """Returns a displacement ahead and to the left of each searcher, then a distance, ``[N, 3]``.

    ``displacement`` is ``[N, 2]`` in the arena's axes, and ``distance`` is ``[N]``.
    """
    cos, sin = jnp.cos(state.searchers.heading), jnp.sin(state.searchers.heading)
    x, y = displacement[:, 0], displacement[:, 1]
    forward, leftward = cos * x + sin * y, cos * y - sin * x
    return jnp.stack([forward, leftward, distance], axis=-1)


def _zone_table(zones: Any) -> tuple[tuple[float, ...], ...]:
    """Returns checked zones; raises ValueError where there are none or one does not fit."""
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
        raise ValueError(f"zones is {zones!r}, but must be {allowed}, shares of the arena's side")
    return table


@dataclasses.dataclass(frozen=True)
class SearchWithZones(CostWrapper):
    """Search and rescue with costs, whose videos show the closed zones.

    Attributes:
        zones: circles ``(x, y, radius)``, in shares of the arena's side.
    """

    zones: tuple[tuple[float, ...], ...] = ()

    def animate(self, states: Sequence[PyTree], path: str | Path, fps: int = 5) -> Path:
        """Writes a GIF of a list of states, with the closed zones.

        Args:
            states: states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, or a path that is not ``.gif``.
        """
        side = float(self.unwrapped.generator.env_size)
        circles = [tuple(side * x for x in zone) for zone in self.zones]
        return self.env.animate(states, path, fps, circles)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of scenarios with costs."""

    costs: Callable[..., tuple[Cost, ...]]
    """Costs from the Jumanji environment and the task's keywords."""
    examples: tuple[str, ...]
    """Scenario names to start from."""


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
    """Returns the families of scenarios that have costs, each with its task."""
    by_class = {family.environment.split(":")[1]: family for family in scenarios.FAMILIES}
    return [(by_class[name], task) for name, task in TASKS.items()]


def examples(suite: str) -> list[tuple[str, str]]:
    """Returns names to start from, each with its agents, actions and episode limit in words.

    Args:
        suite: ``safe``.
    """
    return [
        (f"{suite}/{name}", scenarios.describe(family, name))
        for family, task in families()
        for name in task.examples
    ]


def name_patterns(suite: str) -> list[str]:
    """Returns the patterns of the names in a readable form, for messages.

    Args:
        suite: ``safe``.
    """
    return [f"{suite}/{family.template}" for family, _ in families()]


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> CostWrapper:
    """Builds the environment of a scenario, with the costs of its task.

    Args:
        suite: ``safe``.
        name: the scenario's name, such as ``cleaner-10x10x3a``.
        keywords: those of the adapter, the Jumanji environment and its generator, those of the
            task, and ``cost_limit``: a mapping from names of costs to limits, which replace the
            task's own, or the limit itself where there is one cost.

    Returns:
        The environment with costs.

    Raises:
        ValueError: for a name without costs, an unknown keyword, or a value that is not allowed.
    """
    tasks = [task for family, task in families() if re.fullmatch(family.regex, name)]
    if not tasks:
        templates = ", ".join(family.template for family, _ in families())
        known = [example for task in TASKS.values() for example in task.examples]
        raise unknown_name_error("scenario with costs", name, known, f"Allowed: {templates}.")
    task_keywords = [*scenarios.parameters_of(tasks[0].costs)[1:], "cost_limit"]
    options = {field: keywords[field] for field in task_keywords if field in keywords}
    limit = options.pop("cost_limit", None)
    env_id, other_keywords = f"{suite}/{name}", [*scenarios.ADAPTER_KEYWORDS, *task_keywords]
    native = scenarios.build_native(name, keywords, other_keywords)
    env = scenarios.adapt(native, env_id, keywords)
    try:
        costs = with_limits(tasks[0].costs(native, **options), limit)
        if tasks[0] is TASKS["SearchAndRescue"]:
            return SearchWithZones(env, costs, _zone_table(options.get("zones", ZONES)))
        return CostWrapper(env, costs)
    except ValueError as error:
        raise ValueError(f"{env_id}: {error}") from error
