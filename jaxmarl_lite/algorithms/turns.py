"""Agents that update one after the other (Kuba et al., ICLR 2022).

    M^{i_1:m} = Π_{l<m} π_new(u_{i_l} | o_{i_l}) / π_old(u_{i_l} | o_{i_l}) · Â(s, u)

In each update the agents take their turns in a random order ``i_1 .. i_N``. Each sees the advantage multiplied by how
much likelier, or less likely, those before it have made the actions that they took: the advantage itself is not
estimated anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import models, ppo
from jaxmarl_lite.types import Array, Observation, PyTree

Turn = Callable[[Array, Any, Any, Array], tuple[Any, Array, dict[str, Array]]]
"""``(key, model, data, factor [T, B]) -> (model, log_ratio [T, B], info)``: the turn of one agent."""


def in_turn(key: Array, models_of: PyTree, data: PyTree, alive: Array, turn: Turn) -> tuple[PyTree, dict[str, Array]]:
    """Every agent's turn, in a random order.

    Args:
        key: for the order and for the turns.
        models_of: what each agent carries, every leaf with a leading ``[N]``.
        data: what each agent learns from, every leaf with a leading ``[N]``.
        alive: ``[N, T, B]`` bool; where an agent is dead, its ratio counts as one.
        turn: of one agent. Its log-ratio is that of the actions taken, under its new policy and its old one.

    Returns:
        What the agents then carry, and the info of every agent, ``[N, ...]``, with ``turn``, its place in the order,
        and ``factor_mean``, the mean of the product that it met.
    """
    agents = alive.shape[0]
    order_key, key = jax.random.split(key)
    order = jax.random.permutation(order_key, agents)

    def step(carry: tuple[PyTree, Array], now: tuple[Array, Array]) -> tuple[tuple[PyTree, Array], dict[str, Array]]:
        models_of, factor = carry
        agent, key = now
        model, given = jax.tree.map(lambda x: x[agent], (models_of, data))
        model, log_ratio, info = turn(key, model, given, factor)
        models_of = jax.tree.map(lambda x, one: x.at[agent].set(one), models_of, model)
        info |= {"factor_mean": factor.mean()}
        factor = factor * jnp.where(alive[agent], jnp.exp(log_ratio), 1.0)
        return (models_of, factor), info

    begin = (models_of, jnp.ones(alive.shape[1:], jnp.result_type(float)))
    (models_of, _), info = jax.lax.scan(step, begin, (order, jax.random.split(key, agents)))
    place = jnp.argsort(order)
    info = jax.tree.map(lambda x: x[place], info)
    return models_of, info | {"turn": place.astype(jnp.result_type(float))}


def by_agent(data: ppo.PolicyData) -> ppo.PolicyData:
    """The data of all agents ``[T, B, N, ...]`` as those of each, ``[N, T, B, ...]``; what is common is repeated."""
    agents = data.log_prob.shape[-1]

    def first(x: Array) -> Array:
        return jnp.moveaxis(x, 2, 0)

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x[None], (agents, *x.shape))

    obs = data.obs
    own = Observation(first(obs.view), repeated(obs.state), first(obs.mask), first(obs.alive))
    return ppo.PolicyData(own, first(data.action), first(data.log_prob), repeated(data.first))


def memory_by_agent(memory: PyTree) -> PyTree:
    """The policies' memory ``[B, N, H]`` as ``[N, B, H]``."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), memory)


def log_ratio(actor: models.Actor, theta: PyTree, memory: PyTree, data: ppo.PolicyData, old: Array) -> Array:
    """log π_θ(u|o) - ``old`` for one agent, ``[T, B]``."""
    return actor.unroll(theta, memory, data.obs, data.first).log_prob(data.action) - old


def team_reward(reward_kind: str, reward: Array) -> Array:
    """The reward that all agents work for, ``[T, B, N]``: the team's, or the sum of what each receives."""
    if reward_kind == "team":
        return reward
    return jnp.broadcast_to(reward.sum(-1, keepdims=True), reward.shape)
