"""The adapter's description of each kind of Jumanji environment, as a record of small functions.

In the functions below ``env`` is the Jumanji environment, ``state`` its state and ``native_obs``
the observation that Jumanji returned with that state. The environments are level-based foraging,
robot warehouse, connector and cleaner on grids; MMST, minimum spanning trees of several agents, and
MultiCVRP, routes of several vehicles, on graphs; and search and rescue, which is continuous.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing.cleaner.constants import DIRTY, WALL
from jumanji.environments.routing.cleaner.env import Cleaner
from jumanji.environments.routing.connector import reward as connector_rewards
from jumanji.environments.routing.connector.constants import PATH
from jumanji.environments.routing.connector.env import Connector
from jumanji.environments.routing.lbf.env import LevelBasedForaging
from jumanji.environments.routing.mmst.env import MMST
from jumanji.environments.routing.mmst.reward import DenseRewardFn
from jumanji.environments.routing.multi_cvrp.constants import DEPOT_IDX
from jumanji.environments.routing.multi_cvrp.env import MultiCVRP
from jumanji.environments.routing.robot_warehouse.constants import _AGENTS
from jumanji.environments.routing.robot_warehouse.env import RobotWarehouse
from jumanji.environments.swarms.search_and_rescue.env import SearchAndRescue
from jumanji.environments.swarms.search_and_rescue.reward import IndividualRewardFn

from jaxmarl_lite.types import Array, PyTree

Env = Any
State = PyTree
NativeObs = PyTree


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """One kind of Jumanji environment, described by functions.

    The adapter has no other knowledge of the environment.
    """

    agents_view: Callable[[Env, State, NativeObs], Array]
    """Each agent's observation, ``[N, O]``, already scaled."""
    is_terminal: Callable[[Env, State, Array, State], Array]
    """``(env, state, action, next_state)``: whether the episode is truly over, regardless of the
    time limit; [] bool."""
    return_description: Callable[[Env], str]
    """The meaning of the team's return, in words."""
    individual: bool
    """Whether the environment gives one reward per agent."""
    global_state: Callable[[Env, State, NativeObs], Array] | None = None
    """The state for a central critic, ``[S]``; None: the agents' observations, one after the
    other."""
    action_mask: Callable[[Env, State, NativeObs], Array] = lambda env, state, native_obs: (
        native_obs.action_mask
    )
    """Legal actions, ``[N, A]`` bool; by default Jumanji's own mask."""
    alive: Callable[[Env, State, NativeObs], Array | None] = lambda env, state, native_obs: None
    """Agents that still act, ``[N]`` bool; None: all of them, always."""
    limit: Callable[[Env], int] = lambda env: int(env.time_limit)
    """Most steps of an episode."""
    max_return: Callable[[Env], float | None] = lambda env: None
    """The highest return that can be reached, if known."""
    validate: Callable[[Env], str | None] = lambda env: None
    """The reason why this environment cannot be used as it was built, or None."""
    num_agents: Callable[[Env], int] = lambda env: int(env.num_agents)
    """The number of agents, N."""
    bounds: Callable[[Env], tuple[np.ndarray, np.ndarray] | None] = lambda env: None
    """Lowest and highest values of a continuous action, ``[A]`` each; None: the actions are
    discrete."""
    action_names: tuple[str, ...] = ()
    """A word for each discrete action."""
    video_limits: tuple[float, float] | None = None
    """Limits of both axes of a video, where Jumanji's viewer would draw outside the frame."""


def one_hot_cells(positions: Array, shape: tuple[int, int]) -> Array:
    """Returns one grid per position, with one True each.

    Args:
        positions: ``[N, 2]`` int, (row, column).
        shape: rows and columns of the grids.

    Returns:
        ``[N, rows, columns]`` bool.
    """
    rows, columns = positions[:, 0, None], positions[:, 1, None]
    row_matches = rows == jnp.arange(shape[0])
    column_matches = columns == jnp.arange(shape[1])
    return row_matches[:, :, None] & column_matches[:, None, :]


def sum_over_others(per_agent: Array) -> Array:
    """Returns for each agent the sum over all the other agents.

    Args:
        per_agent: ``[N, ...]``, numbers or bools.

    Returns:
        ``[N, ...]`` float.
    """
    values = per_agent.astype(float)
    return values.sum(0) - values


def concat_features(per_agent: list[Array], shared: list[Array]) -> Array:
    """Flattens and joins the arrays of each agent, then the arrays that all agents share.

    Args:
        per_agent: at least one array ``[N, ...]``.
        shared: arrays of any shape, repeated for every agent.

    Returns:
        ``[N, O]`` float.
    """
    num_agents = per_agent[0].shape[0]
    parts = [x.reshape(num_agents, -1) for x in per_agent]
    parts += [jnp.broadcast_to(x.reshape(-1), (num_agents, x.size)) for x in shared]
    return jnp.concatenate([x.astype(float) for x in parts], axis=-1)


def flatten(*parts: Array) -> Array:
    """Flattens arrays of any shape and joins them to one vector.

    Args:
        *parts: arrays of any shape, numbers or bools.

    Returns:
        ``[S]`` float.
    """
    return jnp.concatenate([jnp.asarray(x).reshape(-1).astype(float) for x in parts])


def has_non_noop_action(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns which agents still act: those with a legal action other than 0, the no-op.

    Args:
        env: the Jumanji environment.
        state: its state.
        native_obs: Jumanji's observation of that state.

    Returns:
        ``[N]`` bool.
    """
    return native_obs.action_mask[:, 1:].any(-1)


# Level-based foraging. Jumanji distinguishes termination and truncation correctly.


def _foraging_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns Jumanji's observations, scaled to at most 1.

    Relative cells are divided by the widest one, levels by the highest level of an agent; -1 for
    "not seen" stays.
    """
    view = native_obs.agents_view.astype(float)
    max_level = env._generator.max_agent_level
    if view.ndim == 4:  # grid observation: agents' levels, food levels, free cells
        scale = jnp.array([1 / max_level, 1 / max_level, 1.0])[:, None, None]
        return (view * scale).reshape(env.num_agents, -1)
    widest = min(2 * env.fov, env.grid_size - 1)
    rows_columns_levels = view.reshape(env.num_agents, -1, 3)
    cells, levels = rows_columns_levels[..., :2], rows_columns_levels[..., 2:]
    cells = jnp.where(cells < 0, -1.0, cells / widest)
    return jnp.concatenate([cells, levels / max_level], axis=-1).reshape(env.num_agents, -1)


def _foraging_return_description(env: Env) -> str:
    if env.normalize_reward:
        text = "share of all food eaten, by level, per episode; 1 is everything"
    else:
        text = (
            "levels of the food eaten, each times the summed levels of the agents that ate "
            "it, per episode"
        )
    return text + (f", less {env.penalty} per agent for a failed attempt" if env.penalty else "")


foraging = AdapterSpec(
    agents_view=_foraging_view,
    is_terminal=lambda env, state, action, next_state: next_state.food_items.eaten.all(),
    return_description=_foraging_return_description,
    individual=True,
    max_return=lambda env: 1.0 if env.normalize_reward else None,
    action_names=("stay", "up", "down", "left", "right", "load"),
)


# Robot warehouse. Jumanji calls its time limit a termination; a collision truly ends the episode.


def _warehouse_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns Jumanji's observations, with the agent's row and column divided by the last ones.

    All other entries are 0 or 1 already.
    """
    view = native_obs.agents_view.astype(float)
    rows, columns = env.grid_size
    return view.at[:, :2].multiply(jnp.array([1 / (rows - 1), 1 / (columns - 1)]))


def _warehouse_collision(env: Env, state: State, action: Array, next_state: State) -> Array:
    """Returns whether two agents collided, [] bool.

    An agent that has driven into another is no longer the one on its cell of the grid.
    """
    position = next_state.agents.position
    return (next_state.grid[_AGENTS, position.x, position.y] != env.agent_ids + 1).any()


warehouse = AdapterSpec(
    agents_view=_warehouse_view,
    is_terminal=_warehouse_collision,
    return_description=lambda env: (
        "requested shelves that the team delivered per episode (a collision ends it)"
    ),
    individual=False,
    action_names=("stay", "forward", "turn left", "turn right", "load"),
)


# Connector. Jumanji distinguishes the two ends, but gives each agent its own discount, 0 once it is
# connected or blocked.


def _connector_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns five grids of 0 and 1 for each agent.

    They mark its head, its target, the others' heads, the others' targets, and all paths.
    """
    shape = state.grid.shape
    heads = one_hot_cells(state.agents.position, shape)
    targets = one_hot_cells(state.agents.target, shape)
    return concat_features(
        [heads, targets, sum_over_others(heads), sum_over_others(targets)], [state.grid % 3 == PATH]
    )


def _connector_state(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns three grids: heads and targets, each as the agent's number over N, and paths."""
    shape = state.grid.shape
    number = (jnp.arange(env.num_agents) + 1.0)[:, None, None] / env.num_agents
    heads = (one_hot_cells(state.agents.position, shape) * number).sum(0)
    targets = (one_hot_cells(state.agents.target, shape) * number).sum(0)
    return flatten(heads, targets, state.grid % 3 == PATH)


def _connector_return_description(env: Env) -> str:
    reward = env._rewarder
    if type(reward) is connector_rewards.DenseRewardFn:
        per_step = f"{reward.timestep_reward:+g} per agent and step until it is connected"
        return (
            f"{reward.connected_reward:g} per connection and {per_step}, summed over the team, "
            "per episode"
        )
    return f"sum over agents and steps of Jumanji's {type(reward).__name__}"


def _validate_connector(env: Env) -> str | None:
    """Returns the reason why an environment cannot be used, or None."""
    shared = (connector_rewards.SharedDenseRewardFn, connector_rewards.SharedSparseRewardFn)
    if isinstance(env._rewarder, shared):
        name = type(env._rewarder).__name__
        return (
            f"reward_fn={name} gives every agent the sum already; leave 'Shared' away and use "
            "reward='team'"
        )
    return None


def _all_connected_or_blocked(env: Env, state: State, action: Array, next_state: State) -> Array:
    return ~next_state.action_mask[:, 1:].any()


connector = AdapterSpec(
    agents_view=_connector_view,
    global_state=_connector_state,
    is_terminal=_all_connected_or_blocked,
    return_description=_connector_return_description,
    individual=True,
    alive=has_non_noop_action,
    validate=_validate_connector,
    action_names=("stay", "up", "right", "down", "left"),
)


# Cleaner. Jumanji calls its time limit a termination. An illegal move truly ends the episode.


def _cleaner_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns four grids for each agent: its cell, the number of others over N, dirt, walls."""
    cells = one_hot_cells(state.agents_locations, state.grid.shape)
    return concat_features(
        [cells, sum_over_others(cells) / env.num_agents],
        [state.grid == DIRTY, state.grid == WALL],
    )


def _cleaner_state(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns three grids: number of agents over N, dirt, walls."""
    cells = one_hot_cells(state.agents_locations, state.grid.shape)
    return flatten(cells.mean(0), state.grid == DIRTY, state.grid == WALL)


def _cleaner_is_terminal(env: Env, state: State, action: Array, next_state: State) -> Array:
    legal = jnp.take_along_axis(state.action_mask, action[:, None], axis=-1).all()
    return ~legal | ~(next_state.grid == DIRTY).any()


def _validate_cleaner(env: Env) -> str | None:
    """Returns the reason why an environment cannot be used, or None."""
    if env.num_rows != env.num_cols:
        size = f"{env.num_rows} rows and {env.num_cols} columns"
        return (
            f"{size}: Jumanji's Cleaner mixes up rows and columns in its legal moves, so only "
            "square grids work"
        )
    return None


cleaner = AdapterSpec(
    agents_view=_cleaner_view,
    global_state=_cleaner_state,
    is_terminal=_cleaner_is_terminal,
    return_description=lambda env: (
        f"tiles cleaned less {env.penalty_per_timestep:g} per step, per episode"
    ),
    individual=False,
    validate=_validate_cleaner,
    action_names=("up", "right", "down", "left"),
)


# MMST. Jumanji calls its time limit a termination. It also shows only the first agent's view of the
# graph.


def _edges(state: State) -> Array:
    """Returns 1 for each pair of nodes that an edge joins, each pair once."""
    return state.adj_matrix[np.triu_indices(state.adj_matrix.shape[0], 1)]


def _nodes(env: Env, state: State) -> tuple[Array, Array, Array]:
    """Returns each agent's nodes to connect, connected nodes, and node, ``[N, nodes]`` bool each.

    The last array marks the node where the agent is.
    """
    connected = state.connected_nodes_index >= 0
    required = state.node_types == jnp.arange(env.num_agents)[:, None]
    position = jnp.arange(env.num_nodes) == state.positions[:, None]
    return required & ~connected, connected, position


def _tree_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns each agent's three node vectors, their sums over the others, and the edges.

    The node vectors have one entry, 0 or 1, per node: the agent's nodes to connect, its connected
    nodes, its position.
    """
    agent_nodes = _nodes(env, state)
    other_nodes = [sum_over_others(x) for x in agent_nodes]
    return concat_features([*agent_nodes, *other_nodes], [_edges(state)])


def _tree_state(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns all agents' nodes, and the edges once."""
    return flatten(*_nodes(env, state), _edges(state))


def _tree_mask(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns Jumanji's mask, in which a stuck agent may also name its own node.

    Jumanji leaves an agent that is finished or enclosed without a legal action.
    """
    _, _, position = _nodes(env, state)
    stuck = ~native_obs.action_mask.any(-1, keepdims=True)
    return native_obs.action_mask | (stuck & position)


def _tree_return_description(env: Env) -> str:
    reward = env._reward_fn
    if type(reward) is DenseRewardFn:
        gain, step, noop = reward._reward_connected, reward._reward_time_step, reward._reward_noop
        rest = f"{step:+g} per other move and {noop:+g} more when it is illegal"
        return f"{gain:+g} per own node reached, {rest}, summed over unfinished agents, per episode"
    return f"sum over steps of Jumanji's {type(reward).__name__}"


def _validate_tree(env: Env) -> str | None:
    """Returns the reason why an environment cannot be used, or None."""
    if env._generator._max_step < env.time_limit:
        return (
            f"time_limit={env.time_limit} is above the generator's "
            f"max_step={env._generator._max_step}, where Jumanji would forget visited nodes; give "
            "max_step at least the time limit"
        )
    return None


spanning_tree = AdapterSpec(
    agents_view=_tree_view,
    global_state=_tree_state,
    action_mask=_tree_mask,
    alive=lambda env, state, native_obs: ~state.finished_agents,
    is_terminal=lambda env, state, action, next_state: next_state.finished_agents.all(),
    return_description=_tree_return_description,
    individual=False,
    validate=_validate_tree,
    video_limits=(-0.1, 1.1),
)


# MultiCVRP. At its limit Jumanji charges the worst case for all customers that remain, so that end
# is a true one: a critic that looked beyond it would count the remainder twice.


def _customers(env: Env, state: State) -> Array:
    """Returns position, demand, time window and time coefficients of every node, flattened.

    Positions are shares of the map's side, demands of the capacity, and time windows of the latest
    end.
    """
    demand = state.nodes.demands / env._max_capacity
    start, end = state.windows.start / env._max_end_window, state.windows.end / env._max_end_window
    return flatten(
        state.nodes.coordinates / env._map_max,
        demand,
        start,
        end,
        state.coeffs.early,
        state.coeffs.late,
    )


def _vehicles(env: Env, state: State) -> Array:
    """Returns position, clock and free capacity of every vehicle, ``[N, 4]``.

    Positions are shares of the map's side, and a vehicle's clock a share of the latest window's
    end.
    """
    position = state.nodes.coordinates[state.vehicles.positions] / env._map_max
    clock = state.vehicles.local_times / env._max_end_window
    free_capacity = state.vehicles.capacities / env._max_capacity
    return jnp.concatenate([position, clock[:, None], free_capacity[:, None]], axis=-1)


def _route_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns for each vehicle itself, then the others in turn, then all customers."""
    vehicles = _vehicles(env, state)
    vehicle_order = np.array(
        [np.roll(np.arange(env._num_vehicles), -i) for i in range(env._num_vehicles)]
    )
    return concat_features([vehicles[vehicle_order]], [_customers(env, state)])


def _route_is_terminal(env: Env, state: State, action: Array, next_state: State) -> Array:
    all_served = next_state.nodes.demands.sum() == 0
    served = all_served & (next_state.vehicles.positions == DEPOT_IDX).all()
    return served | (next_state.step_count > 2 * env._num_customers)


routes = AdapterSpec(
    agents_view=_route_view,
    global_state=lambda env, state, native_obs: flatten(
        _vehicles(env, state), _customers(env, state)
    ),
    is_terminal=_route_is_terminal,
    return_description=lambda env: (
        "minus the distance driven and the penalties for missed time windows, per episode"
    ),
    individual=False,
    limit=lambda env: 2 * env._num_customers,
    num_agents=lambda env: int(env._num_vehicles),
)


# Search and rescue. Jumanji calls its time limit a termination. Its default reward falls with time
# to 0 at the limit, so time is part of the observation, and a critic can learn that the return to
# come is 0 there.


def _progress(env: Env, native_obs: NativeObs) -> Array:
    """Returns the share of targets still missing and the share of the time elapsed, ``[2]``."""
    return jnp.stack(
        [jnp.asarray(native_obs.targets_remaining, float), native_obs.step / env.time_limit]
    )


def _search_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns each searcher's distances along its rays, then the progress, ``[N, O]``.

    The distances are scaled as in Jumanji: the share of the range; -1 for an empty ray.
    """
    return concat_features([native_obs.searcher_views], [_progress(env, native_obs)])


def _search_state(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns positions, headings and speeds of the searchers, the targets, and progress, ``[S]``.

    Positions are shares of the arena's side, headings are cosine and sine, and speeds shares of the
    highest one.
    """
    searchers, targets = state.searchers, state.targets
    size, max_speed = env.generator.env_size, env.searcher_params.max_speed
    heading = (jnp.cos(searchers.heading), jnp.sin(searchers.heading))
    searcher_features = (searchers.pos / size, *heading, searchers.speed / max_speed)
    return flatten(
        *searcher_features,
        targets.pos / size,
        targets.vel / max_speed,
        targets.found,
        _progress(env, native_obs),
    )


def _search_mask(env: Env, state: State, native_obs: NativeObs) -> Array:
    return jnp.ones(env.action_spec.shape, bool)


def _search_bounds(env: Env) -> tuple[np.ndarray, np.ndarray]:
    spec = env.action_spec
    low, high = (
        np.broadcast_to(np.asarray(x), spec.shape)[0] for x in (spec.minimum, spec.maximum)
    )
    return low, high


def _search_return_description(env: Env) -> str:
    reward = env._reward_fn
    if type(reward) is not IndividualRewardFn:
        return f"sum over agents and steps of Jumanji's {type(reward).__name__}"
    worth = (
        "each worth 1 at first, falling to 0 at the time limit"
        if reward.scale_rewards
        else "each worth 1"
    )
    shared = "" if reward.split_rewards else ", counted once for every finder"
    return f"targets found by the team per episode, {worth}{shared}"


search_and_rescue = AdapterSpec(
    agents_view=_search_view,
    global_state=_search_state,
    action_mask=_search_mask,
    is_terminal=lambda env, state, action, next_state: next_state.targets.found.all(),
    return_description=_search_return_description,
    individual=True,
    bounds=_search_bounds,
)


ADAPTER_SPECS: dict[type, AdapterSpec] = {
    LevelBasedForaging: foraging,
    RobotWarehouse: warehouse,
    Connector: connector,
    Cleaner: cleaner,
    MMST: spanning_tree,
    MultiCVRP: routes,
    SearchAndRescue: search_and_rescue,
}
"""The description of each Jumanji class that the adapter accepts."""
