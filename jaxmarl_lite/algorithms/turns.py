"""Agents that update one after the other (Kuba et al., ICLR 2022).

    M^{i_1:m} = Π_{l<m} π_new(u_{i_l} | o_{i_l}) / π_old(u_{i_l} | o_{i_l}) · Â(s, u)

In each update the agents take their turns in a random order ``i_1 .. i_N``. Each sees the advantage multiplied by how
much likelier, or less likely, those before it have made the actions that they took: the advantage itself is not
estimated anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import costs, fitting, limits, models, ppo
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Observation, PyTree

Turn = Callable[[Array, Any, Any, Array], tuple[Any, Array, dict[str, Array]]]
"""``(key, model, data, factor [T, B]) -> (model, log_ratio [T, B], info)``: the turn of one agent; factor and ratio
have the axes ``terms`` of `in_turn` behind these."""


def in_turn(
    key: Array, models_of: PyTree, data: PyTree, alive: Array, turn: Turn, terms: tuple[int, ...] = ()
) -> tuple[PyTree, dict[str, Array]]:
    """Every agent's turn, in a random order.

    Args:
        key: for the order and for the turns.
        models_of: what each agent carries, every leaf with a leading ``[N]``.
        data: what each agent learns from, every leaf with a leading ``[N]``.
        alive: ``[N, T, B]`` bool; where an agent is dead, its ratio counts as one.
        turn: of one agent. Its log-ratio is that of the actions taken, under its new policy and its old one.
        terms: axes that ratios have after ``[T, B]``: () unless they are kept by dimension of the action.

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
        acted = jnp.broadcast_to(jnp.expand_dims(alive[agent], tuple(range(2, 2 + len(terms)))), factor.shape)
        return (models_of, factor * jnp.where(acted, jnp.exp(log_ratio), 1.0)), info

    begin = (models_of, jnp.ones((*alive.shape[1:], *terms), jnp.result_type(float)))
    (models_of, _), info = jax.lax.scan(step, begin, (order, jax.random.split(key, agents)))
    place = jnp.argsort(order)
    info = jax.tree.map(lambda x: x[place], info)
    return models_of, info | {"turn": place.astype(jnp.result_type(float))}


def at_once(key: Array, models_of: PyTree, data: PyTree, alive: Array, turn: Turn) -> tuple[PyTree, dict[str, Array]]:
    """Every agent's turn at the same time, so that none meets the ratios of another; arguments as in `in_turn`."""
    agents = alive.shape[0]
    keys, factor = jax.random.split(key, agents), jnp.ones(alive.shape, jnp.result_type(float))
    models_of, _, info = jax.vmap(turn)(keys, models_of, data, factor)
    return models_of, info | {"factor_mean": factor.mean((1, 2)), "turn": jnp.zeros(agents, factor.dtype)}


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


def log_ratio(actor: models.Actor, theta: PyTree, memory: PyTree, data: ppo.PolicyData) -> Array:
    """log π_θ(u|o) - log π_old(u|o) of the actions that one agent took, ``[T, B]``."""
    return actor.unroll(theta, memory, data.obs, data.first).log_prob(data.action) - data.log_prob


def check_own_weights(config: Any) -> None:
    """Raise ValueError for shared weights: an agent's turn would move the others as well."""
    if config.share_weights:
        raise ValueError(
            f"{type(config).__name__}.share_weights is True; allowed is False, because agents that move in turn "
            "have weights of their own"
        )


class Model(NamedTuple):
    """What an agent carries through its turn."""

    policy: PyTree
    policy_opt: PyTree


class Limited(NamedTuple):
    """What one agent's limits ask of its turn."""

    advantage: Array  # [K, T, B] of its costs
    excess: Array  # [K] how far each limit is broken, in cost per episode
    length: Array  # [] mean length of an episode
    living_share: Array  # [] share of its steps in which the agent is in play
    multiplier: Array  # [K] by the algorithm's own rule: prices, or doubts; zeros where it has none


class Given(NamedTuple):
    """What an agent learns from in its turn."""

    data: ppo.PolicyData  # [T, B, ...]
    memory: PyTree  # its policy's, [B, ...]
    advantage: Array  # [T, B] of the team, in the unit of reward
    limited: Limited | tuple[()]  # () where nothing is limited


AgentTurn = Callable[[models.Actor, Any, Array, Array, Model, Given, Array], tuple[Model, Array, dict[str, Array]]]
"""``(actor, config, seen, key, model, given, factor) -> (model, log_ratio, info)``, see `Turn`."""


class Rules(NamedTuple):
    """How an algorithm's agents update."""

    turn: AgentTurn
    limits: bool = False
    """Whether costs are limited; then the config is a `costs.CostConfig` as well."""
    price: Callable[[Any, costs.CostState, costs.Costs], tuple[costs.CostState, Array]] | None = None
    """``(config, state, costs) -> (state, multipliers [N, K])``; None where there are none."""
    simultaneous: bool = False
    """All at the same time instead of in turn."""
    terms: tuple[int, ...] = ()
    """Axes of a ratio after ``[T, B]``, see `in_turn`."""


class Parts(NamedTuple):
    """The networks of one algorithm."""

    actor: models.Actor
    critic: models.Critic
    cost_critic: models.Critic | None


def make(name: str, spec: EnvSpec, config: Any, rules: Rules) -> Algorithm:
    """An algorithm whose agents take their turns; all but the policies' step, and the costs, is PPO's."""
    if rules.limits:
        limits.check(config.cost_limit, spec, f"{type(config).__name__}.cost_limit")  # type: ignore[attr-defined]
    plain = ppo.make(name, spec, config)
    of = Parts(
        models.lone_actor(spec, config.form),
        models.critic(spec, config.form, config.critic_view, shared=False),
        costs.critic_of(spec, config) if rules.limits else None,
    )

    def init(key: Array, num_envs: int, config: Any = config) -> ppo.PPOState:
        learner = plain.init(key, num_envs, config)
        if of.cost_critic is None:
            return learner
        cost_key = keys.for_purpose(key, keys.COST_CRITIC)
        state = costs.initial(cost_key, of.cost_critic, spec, learner.config, num_envs)
        return learner._replace(costs=state)

    def update(key: Array, learner: ppo.PPOState, batch: Batch) -> tuple[ppo.PPOState, dict[str, Array]]:
        return _update(of, spec, rules, key, learner, batch)

    return plain._replace(init=init, update=update)


def _update(
    of: Parts, spec: EnvSpec, rules: Rules, key: Array, learner: ppo.PPOState, batch: Batch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Estimate the team's advantage and the costs', let every agent take its turn, fit the critics."""
    turn_key, critic_key = jax.random.split(key)
    steps = models.seen_through(learner.sight, batch.steps)
    steps = steps._replace(reward=models.team_reward(spec.reward_kind, steps.reward))
    learner, found, info = ppo.estimate(of, learner, steps)  # type: ignore[arg-type]
    data = ppo.policy_data(steps)
    limited, of_costs = (), None
    if of.cost_critic is not None:
        state, of_costs, more = costs.estimate(of.cost_critic, spec, learner.config, learner.costs, batch, steps)
        prices = jnp.zeros_like(of_costs.excess)
        if rules.price is not None:
            state, prices = rules.price(learner.config, state, of_costs)
        learner, info = learner._replace(costs=state), info | more
        lengths = jnp.broadcast_to(state.episode_length, (spec.num_agents,))
        advantages = jnp.transpose(of_costs.advantage, (2, 3, 0, 1))
        limited = Limited(advantages, of_costs.excess, lengths, state.living_share, prices)
    each = Given(by_agent(data), memory_by_agent(batch.memory), jnp.moveaxis(found.advantage, 2, 0), limited)
    turn = functools.partial(rules.turn, of.actor, learner.config, learner.seen)
    own = Model(learner.policy, learner.policy_opt)
    alive = each.data.obs.alive
    if rules.simultaneous:
        moved, of_turns = at_once(turn_key, own, each, alive, turn)
    else:
        moved, of_turns = in_turn(turn_key, own, each, alive, turn, rules.terms)
    learner = learner._replace(policy=moved.policy, policy_opt=moved.policy_opt)
    learner, fit = _fit_critics(of, critic_key, learner, data, found.target, of_costs)
    if of_costs is not None:
        learner = learner._replace(costs=learner.costs._replace(memory=of_costs.memory))
    return learner._replace(
        memory=found.memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | fit | of_turns | fitting.rate_info(learner.config, learner.seen)


def _fit_critics(
    of: Parts, key: Array, learner: Any, data: ppo.PolicyData, target: Array, of_costs: costs.Costs | None
) -> tuple[Any, dict[str, Array]]:
    """Epochs of a learner's critics over a rollout."""
    config = learner.config
    more = () if of_costs is None else (of_costs.target, learner.costs.memory)

    def step(learner: Any, batch: fitting.Sequences) -> tuple[Any, dict[str, Array]]:
        data, target, *cost_target = batch.steps
        memory, *cost_memory = batch.starts
        learner, info = ppo.critic_step(of.critic, learner, data, memory, target)
        if of.cost_critic is None:
            return learner, info
        state, cost_info = costs.critic_step(
            of.cost_critic, config, learner.seen, learner.costs, data, cost_memory[0], cost_target[0]
        )
        return learner._replace(costs=state), info | cost_info

    sequences = fitting.Sequences((data, target, *more[:1]), (learner.memory, *more[1:]))
    return fitting.epochs(key, learner, sequences, step, config.epochs, config.num_minibatches)
