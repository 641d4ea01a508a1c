"""Sequential policy updates: the agents update one after the other (Kuba et al., ICLR 2022).

    M^{i_1:m} = Π_{l<m} π_new(u_{i_l} | o_{i_l}) / π_old(u_{i_l} | o_{i_l}) · Â(s, u)

In each update the agents take their turns in a random order ``i_1 .. i_N``. Each agent learns from
the advantage times the factor by which the agents before it in the order have made their actions
more or less likely: the advantage itself is not estimated anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import constraints, cost_limits, minibatch, ppo, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree, Rollout

Turn = Callable[[Array, PyTree, PyTree, Array], tuple[PyTree, Array, dict[str, Array]]]
"""``(key, model, data, factor [T, B]) -> (model, log_ratio [T, B], info)``: the turn of one agent;
factor and log-ratio have the ``ratio_axes`` of `sequential_update` as further axes."""


def sequential_update(
    key: Array,
    models: PyTree,
    data: PyTree,
    alive: Array,
    turn: Turn,
    ratio_axes: tuple[int, ...] = (),
) -> tuple[PyTree, dict[str, Array]]:
    """Runs the turn of every agent, one after the other in a random order.

    Args:
        key: random key of the order and of the turns.
        models: the state that each agent's turn changes, every leaf ``[N, ...]``.
        data: the data that each agent learns from, every leaf ``[N, ...]``.
        alive: ``[N, T, B]`` bool; where an agent is dead, its ratio counts as one.
        turn: the turn of one agent. Its log-ratio is log π_new - log π_old of the actions that the
            agent took.
        ratio_axes: sizes of the axes that ratios have after ``[T, B]``: () unless they are separate
            for each dimension of the action.

    Returns:
        The agents' new state, and the info of every agent, ``[N, ...]``, with two further entries:
        ``turn``, the agent's place in the order from 0, and ``ratio_product_mean``, the mean of the
        product of ratios at the agent's turn.
    """
    num_agents = alive.shape[0]
    order_key, key = jax.random.split(key)
    order = jax.random.permutation(order_key, num_agents)

    def step(
        carry: tuple[PyTree, Array], agent_and_key: tuple[Array, Array]
    ) -> tuple[tuple[PyTree, Array], dict[str, Array]]:
        models, factor = carry
        agent, key = agent_and_key
        model, agent_data = tree_math.map_leaves(lambda x: x[agent], (models, data))
        model, log_ratio, info = turn(key, model, agent_data, factor)
        models = tree_math.map_leaves(lambda x, entry: x.at[agent].set(entry), models, model)
        info |= {"ratio_product_mean": factor.mean()}
        acted = jnp.broadcast_to(
            jnp.expand_dims(alive[agent], tuple(range(2, 2 + len(ratio_axes)))), factor.shape
        )
        return (models, factor * jnp.where(acted, jnp.exp(log_ratio), 1.0)), info

    start = (models, jnp.ones((*alive.shape[1:], *ratio_axes), jnp.result_type(float)))
    (models, _), info = jax.lax.scan(step, start, (order, jax.random.split(key, num_agents)))
    # The scan's info is in the order of turns; its inverse permutation sorts by agent.
    position = jnp.argsort(order)
    info = tree_math.map_leaves(lambda x: x[position], info)
    return models, info | {"update_order": position.astype(jnp.result_type(float))}


def simultaneous_update(
    key: Array, models: PyTree, data: PyTree, alive: Array, turn: Turn
) -> tuple[PyTree, dict[str, Array]]:
    """Runs the turns of all agents at the same time, so that no agent meets another's ratios.

    Args:
        key: random key of the turns.
        models: as in `sequential_update`.
        data: as in `sequential_update`.
        alive: as in `sequential_update`; only its shape is used.
        turn: as in `sequential_update`.

    Returns:
        As `sequential_update`, with every ``turn`` 0 and every ``ratio_product_mean`` 1.
    """
    num_agents = alive.shape[0]
    agent_keys = jax.random.split(key, num_agents)
    factor = jnp.ones(alive.shape, jnp.result_type(float))
    models, _, info = jax.vmap(turn)(agent_keys, models, data, factor)
    return models, info | {
        "ratio_product_mean": factor.mean((1, 2)),
        "update_order": jnp.zeros(num_agents, factor.dtype),
    }


def split_by_agent(data: ppo.PolicyBatch) -> ppo.PolicyBatch:
    """Returns the data of all agents with the agents' axis first.

    Args:
        data: leaves ``[T, B, N, ...]``; the state and the marks of first steps are without N.

    Returns:
        Leaves ``[N, T, B, ...]``, where the data that all agents share is repeated N times.
    """
    num_agents = data.log_prob.shape[-1]

    def agents_first(x: Array) -> Array:
        return jnp.moveaxis(x, 2, 0)

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x[None], (num_agents, *x.shape))

    obs = Observation(
        agents_first(data.obs.agents_view),
        repeat(data.obs.global_state),
        agents_first(data.obs.action_mask),
        agents_first(data.obs.alive),
    )
    return ppo.PolicyBatch(
        obs, agents_first(data.action), agents_first(data.log_prob), repeat(data.is_first)
    )


def memory_by_agent(hidden_state: PyTree) -> PyTree:
    """Returns the policies' hidden state with the agents' axis first.

    Args:
        hidden_state: leaves ``[B, N, H]``, or () without a GRU.

    Returns:
        Leaves ``[N, B, H]``.
    """
    return tree_math.map_leaves(lambda x: jnp.moveaxis(x, 1, 0), hidden_state)


def log_ratio(
    actor: actor_critic.Actor, actor_params: PyTree, hidden_state: PyTree, data: ppo.PolicyBatch
) -> Array:
    """Computes log π(u|o) - log π_old(u|o) of the actions that one agent took.

    Args:
        actor: the policy of one agent.
        actor_params: its weights, for π.
        hidden_state: its hidden state before the rollout, ``[B, ...]``.
        data: the agent's rollout ``[T, B, ...]``, with the log-probabilities under π_old.

    Returns:
        ``[T, B]``, in nats.
    """
    return (
        actor.unroll(actor_params, hidden_state, data.obs, data.is_first).log_prob(data.action)
        - data.log_prob
    )


def check_own_weights(config: settings.LearnerConfig) -> None:
    """Checks that agents do not share weights: with shared weights a turn would change all agents.

    Args:
        config: the config of an algorithm whose agents update in turn.

    Raises:
        ValueError: for a config with ``parameter_sharing``.
    """
    if config.parameter_sharing:
        raise ValueError(
            f"{type(config).__name__}.parameter_sharing is True; allowed is False, because agents "
            "that update in turn "
            "have separate weights"
        )


class ActorState(NamedTuple):
    """The policy state of one agent, which its turn changes.

    Attributes:
        params: the policy's weights.
        opt_state: state of the policy's optimizer.
    """

    params: PyTree
    opt_state: PyTree


class AgentConstraints(NamedTuple):
    """The limits of one agent in its turn.

    Attributes:
        advantage: ``[K, T, B]``, advantages of the agent's costs, in the unit of cost.
        violation: ``[K]``, excess over each limit, in cost per episode; positive where broken.
        length: ``[]``, mean length of an episode in steps.
        living_share: ``[]``, share of its steps in which the agent is in play, 0 to 1.
        multiplier: ``[K]``, by the algorithm's own rule: Lagrange multipliers, or degrees of
            pessimism; zeros where it has none.
    """

    advantage: Array
    violation: Array
    length: Array
    living_share: Array
    multiplier: Array


class AgentBatch(NamedTuple):
    """The data that one agent learns from in its turn.

    Attributes:
        data: the agent's rollout, ``[T, B, ...]``.
        hidden_state: its policy's hidden state before the rollout, ``[B, ...]``.
        advantage: ``[T, B]``, the advantage of the team, in the unit of reward.
        constraints: the agent's limits; () where nothing is limited.
    """

    data: ppo.PolicyBatch
    hidden_state: PyTree
    advantage: Array
    constraints: AgentConstraints | tuple[()]


AgentUpdateFn = Callable[
    [actor_critic.Actor, Any, Array, Array, ActorState, AgentBatch, Array],
    tuple[ActorState, Array, dict[str, Array]],
]
"""``(actor, config, env_steps, key, model, batch, factor) -> (model, log_ratio, info)``, see
`Turn`."""


class UpdateSpec(NamedTuple):
    """The parts of an algorithm in which its agents' updates differ from those of others.

    Attributes:
        agent_update: the turn of one agent.
        constrained: whether costs are limited; then the config is a `constraints.CostConfig` as
            well.
        update_multipliers: ``(config, state, costs) -> (state, multipliers [N, K])``; None for an
            algorithm without multipliers.
        simultaneous: whether all agents update at the same time instead of in turn.
        ratio_axes: axes of a ratio after ``[T, B]``, see `sequential_update`.
    """

    agent_update: AgentUpdateFn
    constrained: bool = False
    update_multipliers: (
        Callable[
            [Any, constraints.CostState, constraints.CostEstimate],
            tuple[constraints.CostState, Array],
        ]
        | None
    ) = None
    simultaneous: bool = False
    ratio_axes: tuple[int, ...] = ()


class SequentialNetworks(NamedTuple):
    """The networks of an algorithm with sequential updates.

    Attributes:
        actor: the policy of one agent, without the agents' axis.
        critic: the critics of the reward.
        cost_critic: the critics of the costs; None where nothing is limited.
    """

    actor: actor_critic.Actor
    critic: actor_critic.Critic
    cost_critic: actor_critic.Critic | None


def make_sequential(name: str, spec: EnvSpec, config: Any, update_spec: UpdateSpec) -> Algorithm:
    """Returns an algorithm whose agents update in turn.

    Everything but the policies' step and the costs is PPO's.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: a `settings.CriticConfig`, and a `constraints.CostConfig` as well where
            ``update_spec.constrained``; its static fields decide the networks.
        update_spec: the parts in which the algorithm differs from others.

    Returns:
        The algorithm; its learner is a `ppo.PPOState`.

    Raises:
        ValueError: for limits that do not fit the environment's costs.
    """
    if update_spec.constrained:
        cost_limits.check(config.cost_limit, spec, f"{type(config).__name__}.cost_limit")
    ppo_algorithm = ppo.make_ppo(name, spec, config)
    networks = SequentialNetworks(
        actor_critic.single_agent_actor(spec, config.network_spec),
        actor_critic.make_critic(spec, config.network_spec, config.critic_input, shared=False),
        constraints.make_cost_critic(spec, config) if update_spec.constrained else None,
    )

    def init(key: Array, num_envs: int, config: Any = config) -> ppo.PPOState:
        learner = ppo_algorithm.init(key, num_envs, config)
        if networks.cost_critic is None:
            return learner
        cost_key = keys.for_purpose(key, keys.COST_CRITIC)
        state = constraints.init_cost_state(
            cost_key, networks.cost_critic, spec, learner.config, num_envs
        )
        return learner._replace(costs=state)

    def update(
        key: Array, learner: ppo.PPOState, batch: Rollout
    ) -> tuple[ppo.PPOState, dict[str, Array]]:
        return _update(networks, spec, update_spec, key, learner, batch)

    return ppo_algorithm._replace(init=init, update=update)


def _update(
    networks: SequentialNetworks,
    spec: EnvSpec,
    update_spec: UpdateSpec,
    key: Array,
    learner: ppo.PPOState,
    batch: Rollout,
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Estimates all advantages, runs the agents' turns, then fits the critics to the rollout."""
    turn_key, critic_key = jax.random.split(key)
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    steps = steps._replace(reward=actor_critic.to_team_reward(spec.reward_type, steps.reward))
    learner, estimate, info = ppo.estimate(networks, learner, steps)
    data = ppo.to_policy_batch(steps)
    agent_constraints, cost_estimate = (), None
    if networks.cost_critic is not None:
        cost_state, cost_estimate, cost_info = constraints.estimate_costs(
            networks.cost_critic, spec, learner.config, learner.costs, batch, steps
        )
        multipliers = jnp.zeros_like(cost_estimate.violation)
        if update_spec.update_multipliers is not None:
            cost_state, multipliers = update_spec.update_multipliers(
                learner.config, cost_state, cost_estimate
            )
        learner, info = learner._replace(costs=cost_state), info | cost_info
        lengths = jnp.broadcast_to(cost_state.episode_length, (spec.num_agents,))
        agent_constraints = AgentConstraints(
            jnp.transpose(cost_estimate.advantage, (2, 3, 0, 1)),  # [N, K, T, B]
            cost_estimate.violation,
            lengths,
            cost_state.living_share,
            multipliers,
        )
    agent_batches = AgentBatch(
        split_by_agent(data),
        memory_by_agent(batch.initial_hidden_state),
        jnp.moveaxis(estimate.advantage, 2, 0),
        agent_constraints,
    )
    turn = functools.partial(
        update_spec.agent_update, networks.actor, learner.config, learner.env_steps
    )
    actors = ActorState(learner.actor_params, learner.actor_opt_state)
    alive = agent_batches.data.obs.alive
    if update_spec.simultaneous:
        actors, turn_info = simultaneous_update(turn_key, actors, agent_batches, alive, turn)
    else:
        actors, turn_info = sequential_update(
            turn_key, actors, agent_batches, alive, turn, update_spec.ratio_axes
        )
    learner = learner._replace(actor_params=actors.params, actor_opt_state=actors.opt_state)
    learner, critic_info = _fit_critics(
        networks, critic_key, learner, data, estimate.target, cost_estimate
    )
    if cost_estimate is not None:
        learner = learner._replace(
            costs=learner.costs._replace(critic_hidden_state=cost_estimate.critic_hidden_state)
        )
    env_steps = learner.env_steps  # before this update: the learning rate that it used
    learner = learner._replace(
        critic_hidden_state=estimate.hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=env_steps + batch.transitions.last.size,
    )
    lr_info = minibatch.learning_rate_metric(learner.config, env_steps)
    return learner, info | critic_info | turn_info | lr_info


def _fit_critics(
    networks: SequentialNetworks,
    key: Array,
    learner: ppo.PPOState,
    data: ppo.PolicyBatch,
    target: Array,
    cost_estimate: constraints.CostEstimate | None,
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Trains the critics of reward and costs on a rollout, in several epochs."""
    config = learner.config
    steps, initial_states = (data, target), (learner.critic_hidden_state,)
    if cost_estimate is not None:
        # The cost critics learn from the same minibatches.
        steps = (*steps, cost_estimate.target)
        initial_states = (*initial_states, learner.costs.critic_hidden_state)

    def step(
        learner: ppo.PPOState, batch: minibatch.SequenceBatch
    ) -> tuple[ppo.PPOState, dict[str, Array]]:
        data, target, *cost_target = batch.steps
        hidden_state, *cost_hidden_state = batch.initial_states
        learner, info = ppo.update_critic(networks.critic, learner, data, hidden_state, target)
        if networks.cost_critic is None:
            return learner, info
        state, cost_info = constraints.update_cost_critic(
            networks.cost_critic,
            config,
            learner.env_steps,
            learner.costs,
            data,
            cost_hidden_state[0],
            cost_target[0],
        )
        return learner._replace(costs=state), info | cost_info

    return minibatch.run_epochs(
        key,
        learner,
        minibatch.SequenceBatch(steps, initial_states),
        step,
        config.num_epochs,
        config.num_minibatches,
    )
