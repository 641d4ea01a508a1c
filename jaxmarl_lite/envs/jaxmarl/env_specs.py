"""What the adapter knows about each kind of JaxMARL environment."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.jaxmarl.adapter import AdapterSpec
from jaxmarl_lite.types import Array


def _battle_mask(env: Any, state: Any) -> Array:
    legal = env.get_avail_actions(state)
    return jnp.stack([legal[agent] for agent in env.agents]).astype(bool)


def _allies(env: Any, state: Any) -> Array:
    return state.state.unit_alive[: env.num_allies]


def _enemies(env: Any, state: Any) -> Array:
    return state.state.unit_alive[env.num_allies :]


def _battle_state(env: Any, state: Any, obs: dict[str, Array]) -> Array:
    """JaxMARL's, with places, cooldowns and types scaled as in its views."""
    world, whole = state.state, obs["world_state"]
    units = len(world.unit_types)
    features = len(env.own_features)
    each = whole[: units * features].reshape(units, features)
    ready = jnp.clip(
        each[:, 3] / jnp.asarray(env.unit_type_weapon_cooldowns)[world.unit_types], 0.0, 1.0
    )
    each = (
        each.at[:, 1:3]
        .divide(jnp.asarray([env.map_width, env.map_height], each.dtype))
        .at[:, 3]
        .set(ready)
    )
    teams, types = jnp.split(whole[units * features :], 2)
    return jnp.concatenate([each.reshape(-1), teams, types / (env.unit_type_bits - 1)])


def _battle_actions(env: Any) -> tuple[str, ...]:
    moves = tuple(f"move {way}" for way in ("north", "east", "south", "west"))
    return (*moves, "stop", *(f"attack {i}" for i in range(env.num_enemies)))


smax = AdapterSpec(
    return_description="share of the enemies' health taken, plus the bonus of a win, per episode",
    global_state=_battle_state,
    team_reward_only=True,
    action_mask=_battle_mask,
    alive=_allies,
    is_terminal=lambda env, state: ~_allies(env, state).any() | ~_enemies(env, state).any(),
    is_win=lambda env, state: _allies(env, state).any() & ~_enemies(env, state).any(),
    win_condition="every enemy is dead and an ally alive",
    action_names=_battle_actions,
)
"""Battles; the time limit is no loss, but a truncation."""


def _joined(env: Any, state: Any, obs: dict[str, Array]) -> Array:
    return jnp.concatenate([obs[agent] for agent in env.agents])


def _particles(team: str, shared: bool, moves: bool = False) -> AdapterSpec:
    """The state is all that the agents see; ``moves``: all that an agent does is to move."""
    names = (lambda env: ("stay", "left", "right", "down", "up")) if moves else None
    return AdapterSpec(
        f"team reward per episode: {team}, negative", _joined, shared, action_names=names
    )


spread = _particles(
    "distances from landmarks to the nearest agent, and collisions", shared=False, moves=True
)
spread_apart = _particles("distances from landmarks to the nearest agent", shared=True, moves=True)
reference = _particles("distances from agents to their landmarks", shared=False)
speaker_listener = _particles("squared distance from the listener to the landmark", shared=True)


def _shaped(infos: Any) -> Array:
    shaped = infos["shaped_reward"]
    return jnp.stack([jnp.asarray(shaped[agent], float) for agent in sorted(shaped)])


overcooked = AdapterSpec(
    return_description="reward of the team per episode, 20 per soup served",
    global_state=lambda env, state, obs: jnp.asarray(obs[env.agents[0]], float).reshape(-1),
    team_reward_only=True,
    shaped_reward=_shaped,
    action_names=lambda env: ("up", "down", "right", "left", "stay", "interact"),
)
"""A cook sees the whole kitchen, itself first: the first one's view is the state."""
