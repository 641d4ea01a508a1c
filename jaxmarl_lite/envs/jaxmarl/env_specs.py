"""Adapter specifications of each kind of JaxMARL environment."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.jaxmarl.adapter import AdapterSpec
from jaxmarl_lite.types import Array, PyTree


def _battle_mask(env: Any, state: PyTree) -> Array:
    legal = env.get_avail_actions(state)
    return jnp.stack([legal[agent] for agent in env.agents]).astype(bool)


def _allies_alive(env: Any, state: PyTree) -> Array:
    return state.state.unit_alive[: env.num_allies]


def _enemies_alive(env: Any, state: PyTree) -> Array:
    return state.state.unit_alive[env.num_allies :]


def _battle_state(env: Any, state: PyTree, obs: dict[str, Array]) -> Array:
    """Returns JaxMARL's state, with positions, cooldowns and types scaled as in observations.

    JaxMARL's vector has the features of every unit, then a team and a type per unit.
    """
    battle, native_state = state.state, obs["world_state"]
    num_units = len(battle.unit_types)
    num_features = len(env.own_features)
    units = native_state[: num_units * num_features].reshape(num_units, num_features)
    # columns 1 and 2 are the position, column 3 is the weapon's cooldown
    cooldown = jnp.clip(
        units[:, 3] / jnp.asarray(env.unit_type_weapon_cooldowns)[battle.unit_types], 0.0, 1.0
    )
    units = (
        units.at[:, 1:3]
        .divide(jnp.asarray([env.map_width, env.map_height], units.dtype))
        .at[:, 3]
        .set(cooldown)
    )
    teams, types = jnp.split(native_state[num_units * num_features :], 2)
    return jnp.concatenate([units.reshape(-1), teams, types / (env.unit_type_bits - 1)])


def _battle_actions(env: Any) -> tuple[str, ...]:
    moves = tuple(f"move {direction}" for direction in ("north", "east", "south", "west"))
    return (*moves, "stop", *(f"attack {i}" for i in range(env.num_enemies)))


smax = AdapterSpec(
    return_description="share of the enemies' health taken, plus the bonus of a win, per episode",
    global_state=_battle_state,
    team_reward_only=True,
    action_mask=_battle_mask,
    alive=_allies_alive,
    is_terminal=lambda env, state: (
        ~_allies_alive(env, state).any() | ~_enemies_alive(env, state).any()
    ),
    is_win=lambda env, state: _allies_alive(env, state).any() & ~_enemies_alive(env, state).any(),
    win_condition="every enemy is dead and an ally alive",
    action_names=_battle_actions,
)
"""Battles; the time limit is no loss, but a truncation."""


def _join_observations(env: Any, state: PyTree, obs: dict[str, Array]) -> Array:
    return jnp.concatenate([obs[agent] for agent in env.agents])


def _particles(team_return: str, team_reward_only: bool, only_moves: bool = False) -> AdapterSpec:
    """Returns a description of particles whose state is the observations of all agents.

    ``team_return`` says in words what the reward sums, and ``only_moves`` that an agent's only
    actions are moves.
    """
    names = (lambda env: ("stay", "left", "right", "down", "up")) if only_moves else None
    return AdapterSpec(
        f"team reward per episode: {team_return}, negative",
        _join_observations,
        team_reward_only,
        action_names=names,
    )


spread = _particles(
    "distances from landmarks to the nearest agent, and collisions",
    team_reward_only=False,
    only_moves=True,
)
spread_without_collisions = _particles(
    "distances from landmarks to the nearest agent", team_reward_only=True, only_moves=True
)
reference = _particles("distances from agents to their landmarks", team_reward_only=False)
speaker_listener = _particles(
    "squared distance from the listener to the landmark", team_reward_only=True
)


def _shaped_reward(infos: dict[str, Any]) -> Array:
    shaped = infos["shaped_reward"]
    return jnp.stack([jnp.asarray(shaped[agent], float) for agent in sorted(shaped)])


overcooked = AdapterSpec(
    return_description="reward of the team per episode, 20 per soup served",
    global_state=lambda env, state, obs: jnp.asarray(obs[env.agents[0]], float).reshape(-1),
    team_reward_only=True,
    shaped_reward=_shaped_reward,
    action_names=lambda env: ("up", "down", "right", "left", "stay", "interact"),
)
"""Overcooked; a cook observes the entire kitchen, itself first, so the first cook's observation is
the state."""
