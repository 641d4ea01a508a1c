"""Agents that update one after the other (Kuba et al., ICLR 2022).

    M^{i_1:m} = Π_{l<m} π_new(u_{i_l} | o_{i_l}) / π_old(u_{i_l} | o_{i_l}) · Â(s, u)

In each update the agents take their turns in a random order ``i_1 .. i_N``. Each sees the advantage
multiplied by how much likelier, or less likely, those before it have made the actions that they
took: the advantage itself is not estimated anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import constraints, cost_limits, minibatch, ppo
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree, Rollout

Turn = Callable[[Array, Any, Any, Array], tuple[Any, Array, dict[str, Array]]]
"""``(key, model, data, factor [T, B]) -> (model, log_ratio [T, B], info)``: the turn of one agent;
factor and ratio have the axes ``terms`` of `sequential_update` behind these."""


def sequential_update(
    key: Array,
    models_of: PyTree,
    data: PyTree,
    alive: Array,
    turn: Turn,
    terms: tuple[int, ...] = (),
) -> tuple[PyTree, dict[str, Array]]:
    """Every agent's turn, in a random order.

    Args:
        key: for the order and for the turns.
        models_of: what each agent carries, every leaf with a leading ``[N]``.
        data: what each agent learns from, every leaf with a leading ``[N]``.
        alive: ``[N, T, B]`` bool; where an agent is dead, its ratio counts as one.
        turn: of one agent. Its log-ratio is that of the actions taken, under its new policy and its
            old one.
        terms: axes that ratios have after ``[T, B]``: () unless they are kept by dimension of the
            action.

    Returns: What the agents then carry, and the info of every agent, ``[N, ...]``, with ``turn``,
        its place in the order, and ``ratio_product_mean``, the mean of the product that it met.
    """
    agents = alive.shape[0]
    order_key, key = jax.random.split(key)
    order = jax.random.permutation(order_key, agents)

    def step(
        carry: tuple[PyTree, Array], now: tuple[Array, Array]
    ) -> tuple[tuple[PyTree, Array], dict[str, Array]]:
        models_of, factor = carry
        agent, key = now
        model, given = jax.tree.map(lambda x: x[agent], (models_of, data))
        model, log_ratio, info = turn(key, model, given, factor)
        models_of = jax.tree.map(lambda x, one: x.at[agent].set(one), models_of, model)
        info |= {"ratio_product_mean": factor.mean()}
        acted = jnp.broadcast_to(
            jnp.expand_dims(alive[agent], tuple(range(2, 2 + len(terms)))), factor.shape
        )
        return (models_of, factor * jnp.where(acted, jnp.exp(log_ratio), 1.0)), info

    begin = (models_of, jnp.ones((*alive.shape[1:], *terms), jnp.result_type(float)))
    (models_of, _), info = jax.lax.scan(step, begin, (order, jax.random.split(key, agents)))
    place = jnp.argsort(order)
    info = jax.tree.map(lambda x: x[place], info)
    return models_of, info | {"turn": place.astype(jnp.result_type(float))}


def simultaneous_update(
    key: Array, models_of: PyTree, data: PyTree, alive: Array, turn: Turn
) -> tuple[PyTree, dict[str, Array]]:
    """Every agent's turn at the same time, so that none meets another's ratios; arguments as in
    `sequential_update`.
    """
    agents = alive.shape[0]
    keys, factor = jax.random.split(key, agents), jnp.ones(alive.shape, jnp.result_type(float))
    models_of, _, info = jax.vmap(turn)(keys, models_of, data, factor)
    return models_of, info | {
        "ratio_product_mean": factor.mean((1, 2)),
        "turn": jnp.zeros(agents, factor.dtype),
    }


def split_by_agent(data: ppo.PolicyBatch) -> ppo.PolicyBatch:
    """The data of all agents ``[T, B, N, ...]`` as those of each, ``[N, T, B, ...]``; what is
    common is repeated.
    """
    agents = data.log_prob.shape[-1]

    def first(x: Array) -> Array:
        return jnp.moveaxis(x, 2, 0)

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x[None], (agents, *x.shape))

    obs = data.obs
    own = Observation(
        first(obs.agents_view), repeated(obs.global_state), first(obs.action_mask), first(obs.alive)
    )
    return ppo.PolicyBatch(own, first(data.action), first(data.log_prob), repeated(data.is_first))


def memory_by_agent(hidden_state: PyTree) -> PyTree:
    """The policies' memory ``[B, N, H]`` as ``[N, B, H]``."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), hidden_state)


def log_ratio(
    actor: actor_critic.Actor, theta: PyTree, hidden_state: PyTree, data: ppo.PolicyBatch
) -> Array:
    """Log π_θ(u|o) - log π_old(u|o) of the actions that one agent took, ``[T, B]``."""
    return (
        actor.unroll(theta, hidden_state, data.obs, data.is_first).log_prob(data.action)
        - data.log_prob
    )


def check_own_weights(config: Any) -> None:
    """Raise ValueError for shared weights: an agent's turn would move the others as well."""
    if config.parameter_sharing:
        raise ValueError(
            f"{type(config).__name__}.parameter_sharing is True; allowed is False, because agents "
            "that move in turn "
            "have weights of their own"
        )


class ActorState(NamedTuple):
    """What an agent carries through its turn."""

    params: PyTree
    opt_state: PyTree


class AgentConstraints(NamedTuple):
    """What one agent's limits ask of its turn."""

    advantage: Array  # [K, T, B] of its costs
    violation: Array  # [K] how far each limit is broken, in cost per episode
    length: Array  # [] mean length of an episode
    living_share: Array  # [] share of its steps in which the agent is in play
    multiplier: Array  # [K] by the algorithm's own rule: prices, or doubts; zeros where it has none


class AgentBatch(NamedTuple):
    """What an agent learns from in its turn."""

    data: ppo.PolicyBatch  # [T, B, ...]
    hidden_state: PyTree  # its policy's, [B, ...]
    advantage: Array  # [T, B] of the team, in the unit of reward
    constraints: AgentConstraints | tuple[()]  # () where nothing is limited


AgentUpdateFn = Callable[
    [actor_critic.Actor, Any, Array, Array, ActorState, AgentBatch, Array],
    tuple[ActorState, Array, dict[str, Array]],
]
"""``(actor, config, seen, key, model, given, factor) -> (model, log_ratio, info)``, see `Turn`."""


class UpdateSpec(NamedTuple):
    """How an algorithm's agents update."""

    agent_update: AgentUpdateFn
    constrained: bool = False
    """Whether costs are limited; then the config is a `costs.CostConfig` as well."""
    update_multipliers: (
        Callable[
            [Any, constraints.CostState, constraints.CostEstimate],
            tuple[constraints.CostState, Array],
        ]
        | None
    ) = None
    """``(config, state, costs) -> (state, multipliers [N, K])``; None where there are none."""
    simultaneous: bool = False
    """All at the same time instead of in turn."""
    ratio_axes: tuple[int, ...] = ()
    """Axes of a ratio after ``[T, B]``, see `sequential_update`."""


class SequentialNetworks(NamedTuple):
    """The networks of one algorithm."""

    actor: actor_critic.Actor
    critic: actor_critic.Critic
    cost_critic: actor_critic.Critic | None


def make_sequential(name: str, spec: EnvSpec, config: Any, rules: UpdateSpec) -> Algorithm:
    """An algorithm whose agents take their turns; all but the policies' step, and the costs, is
    PPO's.
    """
    if rules.constrained:
        cost_limits.check(config.cost_limit, spec, f"{type(config).__name__}.cost_limit")  # type: ignore[attr-defined]
    plain = ppo.make_ppo(name, spec, config)
    of = SequentialNetworks(
        actor_critic.single_agent_actor(spec, config.network_spec),
        actor_critic.make_critic(spec, config.network_spec, config.critic_input, shared=False),
        constraints.make_cost_critic(spec, config) if rules.constrained else None,
    )

    def init(key: Array, num_envs: int, config: Any = config) -> ppo.PPOState:
        learner = plain.init(key, num_envs, config)
        if of.cost_critic is None:
            return learner
        cost_key = keys.for_purpose(key, keys.COST_CRITIC)
        state = constraints.init_cost_state(
            cost_key, of.cost_critic, spec, learner.config, num_envs
        )
        return learner._replace(costs=state)

    def update(
        key: Array, learner: ppo.PPOState, batch: Rollout
    ) -> tuple[ppo.PPOState, dict[str, Array]]:
        return _update(of, spec, rules, key, learner, batch)

    return plain._replace(init=init, update=update)


def _update(
    of: SequentialNetworks,
    spec: EnvSpec,
    rules: UpdateSpec,
    key: Array,
    learner: ppo.PPOState,
    batch: Rollout,
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Estimate the team's advantage and the costs', let every agent take its turn, fit the
    critics.
    """
    turn_key, critic_key = jax.random.split(key)
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    steps = steps._replace(reward=actor_critic.to_team_reward(spec.reward_type, steps.reward))
    learner, found, info = ppo.estimate(of, learner, steps)  # type: ignore[arg-type]
    data = ppo.to_policy_batch(steps)
    limited, of_costs = (), None
    if of.cost_critic is not None:
        state, of_costs, more = constraints.estimate_costs(
            of.cost_critic, spec, learner.config, learner.costs, batch, steps
        )
        prices = jnp.zeros_like(of_costs.violation)
        if rules.update_multipliers is not None:
            state, prices = rules.update_multipliers(learner.config, state, of_costs)
        learner, info = learner._replace(costs=state), info | more
        lengths = jnp.broadcast_to(state.episode_length, (spec.num_agents,))
        advantages = jnp.transpose(of_costs.advantage, (2, 3, 0, 1))
        limited = AgentConstraints(
            advantages, of_costs.violation, lengths, state.living_share, prices
        )
    each = AgentBatch(
        split_by_agent(data),
        memory_by_agent(batch.initial_hidden_state),
        jnp.moveaxis(found.advantage, 2, 0),
        limited,
    )
    turn = functools.partial(rules.agent_update, of.actor, learner.config, learner.env_steps)
    own = ActorState(learner.actor_params, learner.actor_opt_state)
    alive = each.data.obs.alive
    if rules.simultaneous:
        moved, of_turns = simultaneous_update(turn_key, own, each, alive, turn)
    else:
        moved, of_turns = sequential_update(turn_key, own, each, alive, turn, rules.ratio_axes)
    learner = learner._replace(actor_params=moved.params, actor_opt_state=moved.opt_state)
    learner, fit = _fit_critics(of, critic_key, learner, data, found.target, of_costs)
    if of_costs is not None:
        learner = learner._replace(
            costs=learner.costs._replace(critic_hidden_state=of_costs.critic_hidden_state)
        )
    return learner._replace(
        critic_hidden_state=found.hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | fit | of_turns | minibatch.learning_rate_metric(learner.config, learner.env_steps)


def _fit_critics(
    of: SequentialNetworks,
    key: Array,
    learner: Any,
    data: ppo.PolicyBatch,
    target: Array,
    of_costs: constraints.CostEstimate | None,
) -> tuple[Any, dict[str, Array]]:
    """Epochs of a learner's critics over a rollout."""
    config = learner.config
    more = () if of_costs is None else (of_costs.target, learner.costs.critic_hidden_state)

    def step(learner: Any, batch: minibatch.SequenceBatch) -> tuple[Any, dict[str, Array]]:
        data, target, *cost_target = batch.steps
        hidden_state, *cost_memory = batch.initial_states
        learner, info = ppo.update_critic(of.critic, learner, data, hidden_state, target)
        if of.cost_critic is None:
            return learner, info
        state, cost_info = constraints.update_cost_critic(
            of.cost_critic,
            config,
            learner.env_steps,
            learner.costs,
            data,
            cost_memory[0],
            cost_target[0],
        )
        return learner._replace(costs=state), info | cost_info

    sequences = minibatch.SequenceBatch(
        (data, target, *more[:1]), (learner.critic_hidden_state, *more[1:])
    )
    return minibatch.run_epochs(
        key, learner, sequences, step, config.num_epochs, config.num_minibatches
    )
