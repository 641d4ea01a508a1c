"""Adapter specifications of Jumanji's graph environments: spanning trees and vehicle routes.

MMST asks for minimum spanning trees of several agents, MultiCVRP for routes of several vehicles.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing.mmst.reward import DenseRewardFn
from jumanji.environments.routing.multi_cvrp.constants import DEPOT_IDX

from jaxmarl_lite.envs.jumanji.adapter_spec import (
    AdapterSpec,
    Env,
    NativeObs,
    State,
    concat_features,
    flatten,
    sum_over_others,
)
from jaxmarl_lite.types import Array

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
