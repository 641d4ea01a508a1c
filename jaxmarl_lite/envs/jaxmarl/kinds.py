"""What the adapter knows about each kind of JaxMARL environment."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxmarl_lite.envs.jaxmarl.adapter import Particulars
from jaxmarl_lite.types import Array


def _battle_mask(env: Any, state: Any) -> Array:
    legal = env.get_avail_actions(state)
    return jnp.stack([legal[agent] for agent in env.agents]).astype(bool)


def _allies(env: Any, state: Any) -> Array:
    return state.state.unit_alive[: env.num_allies]


def _enemies(env: Any, state: Any) -> Array:
    return state.state.unit_alive[env.num_allies :]


smax = Particulars(
    meaning="share of the enemies' health taken, plus the bonus of a win, per episode",
    limit=lambda env: int(env.max_steps),
    state=lambda env, state, obs: obs["world_state"],
    shared=True,
    mask=_battle_mask,
    alive=_allies,
    over=lambda env, state: ~_allies(env, state).any() | ~_enemies(env, state).any(),
    won=lambda env, state: _allies(env, state).any() & ~_enemies(env, state).any(),
    win_meaning="every enemy is dead and an ally alive",
)
"""Battles; the time limit is no loss, but a truncation."""


def _joined(env: Any, state: Any, obs: dict[str, Array]) -> Array:
    return jnp.concatenate([obs[agent] for agent in env.agents])


spread = Particulars(
    meaning="team reward per episode: distances from landmarks to the nearest agent, and collisions, negative",
    limit=lambda env: int(env.max_steps),
    state=_joined,
    shared=False,
)
spread_apart = Particulars(
    meaning="team reward per episode: distances from landmarks to the nearest agent, negative",
    limit=lambda env: int(env.max_steps),
    state=_joined,
    shared=True,
)
reference = Particulars(
    meaning="team reward per episode: distances from agents to their landmarks, negative",
    limit=lambda env: int(env.max_steps),
    state=_joined,
    shared=False,
)
speaker_listener = Particulars(
    meaning="team reward per episode: squared distance from the listener to the landmark, negative",
    limit=lambda env: int(env.max_steps),
    state=_joined,
    shared=True,
)


def _shaped(infos: Any) -> Array:
    shaped = infos["shaped_reward"]
    return jnp.stack([jnp.asarray(shaped[agent], float) for agent in sorted(shaped)])


overcooked = Particulars(
    meaning="reward of the team per episode, 20 per soup served",
    limit=lambda env: int(env.max_steps),
    state=lambda env, state, obs: jnp.asarray(obs[env.agents[0]], float).reshape(-1),
    shared=True,
    bonus=_shaped,
)
"""A cook sees the whole kitchen, itself first: the first one's view is the state."""
