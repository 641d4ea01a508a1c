"""Adapter specifications of Jumanji's grid environments.

They are level-based foraging, robot warehouse, connector and cleaner.
"""

from __future__ import annotations

import jax.numpy as jnp
from jumanji.environments.routing.cleaner.constants import DIRTY, WALL
from jumanji.environments.routing.connector import reward as connector_rewards
from jumanji.environments.routing.connector.constants import PATH
from jumanji.environments.routing.robot_warehouse.constants import _AGENTS

from jaxmarl_lite.envs.jumanji.adapter_spec import (
    AdapterSpec,
    Env,
    NativeObs,
    State,
    concat_features,
    flatten,
    has_non_noop_action,
    one_hot_cells,
    sum_over_others,
)
from jaxmarl_lite.types import Array

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
