"""Particulars of Jumanji's graph worlds: minimum spanning trees for several agents, routes for
several vehicles.
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
    """Each pair of nodes once: 1 where they are joined."""
    return state.adj_matrix[np.triu_indices(state.adj_matrix.shape[0], 1)]


def _nodes(env: Env, state: State) -> tuple[Array, Array, Array]:
    """For each agent: nodes still to connect, nodes connected, the node it is at; each ``[N,
    nodes]`` bool.
    """
    connected = state.connected_nodes_index >= 0
    wanted = state.node_types == jnp.arange(env.num_agents)[:, None]
    here = jnp.arange(env.num_nodes) == state.positions[:, None]
    return wanted & ~connected, connected, here


def _tree_view(env: Env, state: State, seen: NativeObs) -> Array:
    """0 or 1 per node: own to connect, own connected, own place; the same summed over the others;
    then all edges.
    """
    mine = _nodes(env, state)
    theirs = [sum_over_others(x) for x in mine]
    return concat_features([*mine, *theirs], [_edges(state)])


def _tree_state(env: Env, state: State, seen: NativeObs) -> Array:
    """All agents' nodes and the edges, once."""
    return flatten(*_nodes(env, state), _edges(state))


def _tree_mask(env: Env, state: State, seen: NativeObs) -> Array:
    """Jumanji leaves an agent that is finished or shut in without a legal action; here it may name
    its own node.
    """
    _, _, here = _nodes(env, state)
    stuck = ~seen.action_mask.any(-1, keepdims=True)
    return seen.action_mask | (stuck & here)


def _tree_meaning(env: Env) -> str:
    reward = env._reward_fn
    if type(reward) is DenseRewardFn:
        gain, step, noop = reward._reward_connected, reward._reward_time_step, reward._reward_noop
        rest = f"{step:+g} per other move and {noop:+g} more when it is illegal"
        return f"{gain:+g} per own node reached, {rest}, summed over unfinished agents, per episode"
    return f"sum over steps of Jumanji's {type(reward).__name__}"


def _tree_refuse(env: Env) -> str | None:
    if env._generator._max_step < env.time_limit:
        have = (
            f"time_limit={env.time_limit} is above the generator's "
            f"max_step={env._generator._max_step}"
        )
        return (
            f"{have}, where Jumanji would forget visited nodes; give max_step at least the "
            "time limit"
        )
    return None


spanning_tree = AdapterSpec(
    agents_view=_tree_view,
    global_state=_tree_state,
    action_mask=_tree_mask,
    alive=lambda env, state, seen: ~state.finished_agents,
    is_terminal=lambda env, before, action, after: after.finished_agents.all(),
    return_description=_tree_meaning,
    individual=False,
    validate=_tree_refuse,
    video_limits=(-0.1, 1.1),
)


# MultiCVRP. At its limit Jumanji charges the worst case for all that is left, so that end is a true
# one: a critic that looked beyond it would count the remainder twice.


def _customers(env: Env, state: State) -> Array:
    """Per node: place over the map's side, demand over the capacity, time window over its latest
    end, coefficients.
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
    """Per vehicle: place over the map's side, own clock over the latest window's end, free
    capacity; ``[N, 4]``.
    """
    place = state.nodes.coordinates[state.vehicles.positions] / env._map_max
    clock = state.vehicles.local_times / env._max_end_window
    free = state.vehicles.capacities / env._max_capacity
    return jnp.concatenate([place, clock[:, None], free[:, None]], axis=-1)


def _route_view(env: Env, state: State, seen: NativeObs) -> Array:
    """Own vehicle, then the others in turn, then all customers."""
    vehicles = _vehicles(env, state)
    in_turn = np.array(
        [np.roll(np.arange(env._num_vehicles), -i) for i in range(env._num_vehicles)]
    )
    return concat_features([vehicles[in_turn]], [_customers(env, state)])


def _route_over(env: Env, before: State, action: Array, after: State) -> Array:
    served = (after.nodes.demands.sum() == 0) & (after.vehicles.positions == DEPOT_IDX).all()
    return served | (after.step_count > 2 * env._num_customers)


routes = AdapterSpec(
    agents_view=_route_view,
    global_state=lambda env, state, seen: flatten(_vehicles(env, state), _customers(env, state)),
    is_terminal=_route_over,
    return_description=lambda env: (
        "minus the distance driven and the penalties for missed time windows, per episode"
    ),
    individual=False,
    limit=lambda env: 2 * env._num_customers,
    num_agents=lambda env: int(env._num_vehicles),
)
