"""Critics and advantages of costs for constrained algorithms, and the violations of their limits.

    A^i_k = GAE of the cost C^i_k,   d^i_k = J^i_k + z SE(J^i_k) - limit^i_k,
    c^i_k = d^i_k / episode length

for the k-th cost of agent i, whose critics estimate each agent's costs separately.

**Surrogate.** ``J^i_k`` is the mean undiscounted cost of the episodes that ended last, or a moving
average (``cost_average_episodes``; not in the paper). A step raises the cost of an episode by about
its length times ``E[ρ A_k]``. Hence c, in cost per step, is the constant beside that surrogate (Gu
et al. 2021, section 4.2, for costs whose discount is close to 1). The mean is over all steps of an
episode: for an agent that is in play for only a part of them, and whose ratio is 1 in the others,
it is the mean over the steps in play times their share.

**First episodes.** J is not known before every environment has finished an episode, because the
first episodes to end are the short ones. The costs of the first episodes so far are a lower bound
of J: where this bound exceeds the limit it stands for J, and elsewhere c is 0, so that no slack
under a limit is claimed.

**Confidence.** J is the mean of few episodes, and a cost that is held at its limit by J is over it
in about half of all updates. With ``cost_confidence`` the limit holds for the upper end of the
one-sided confidence interval of the mean: z is the normal quantile, and SE(J) follows from the
episodes' own variance (`standard_error`). For 0.5, the default, z is 0, as in the paper.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import base_config, cost_limits, gradient_update, optimizers, ppo
from jaxmarl_lite.algorithms.cost_limits import CostLimit, CostLimits
from jaxmarl_lite.algorithms.gradient_update import CriticFit, ModelState, Moments
from jaxmarl_lite.algorithms.optimizers import LearningRate, OptimizerRule
from jaxmarl_lite.algorithms.sequential_update import SequentialNetworks
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import NetworkSpec
from jaxmarl_lite.networks.torsos import Torso
from jaxmarl_lite.ops import running_statistics, tree_math
from jaxmarl_lite.types import Array, EnvSpec, PyTree, Rollout, Transition

_ENVIRONMENT_LIMITS = CostLimits()  # no limit is set, so that the environment's hold


@base_config.config_record
class CostConfig(base_config.Settings):
    """Settings of algorithms that keep limits on costs."""

    cost_limit: CostLimit = _ENVIRONMENT_LIMITS
    """Limits by the cost's name, one for all agents or one per agent, in cost per episode; else the
    environment's own."""
    cost_confidence: float = base_config.bounded(0.5, 0.5, 0.9999)
    """Confidence with which the mean cost per episode is to be within its limit: the limit holds
    for the upper end of its one-sided confidence interval; 0.5: for the mean itself (the paper)."""
    cost_average_episodes: float = base_config.bounded(0.0, 0, 1e6)
    """Earlier episodes w that the mean cost J remembers: as n end, J moves by n / (n + w) towards
    their mean. Relative multipliers hardly register how far a rare costly episode is over a limit;
    in an average over many they do."""
    cost_gamma: float = base_config.bounded(0.999, 0, 1)
    """Discount of costs per step; limits are on undiscounted costs."""
    cost_gae_lambda: float = base_config.bounded(0.95, 0, 1)
    """Mixing of n-step sums in the cost advantages."""
    cost_critic_lr: LearningRate = base_config.bounded(5e-4, 0, 10)
    """Learning rate of the cost critics; or a schedule, as for lr."""
    cost_critic_optimizer: OptimizerRule | None = None
    """Rule of the cost critics' gradient steps, as for optimizer; None: that of the critic."""
    standardize_cost_advantages: bool = False
    """Scale cost advantages to deviation 1, as the reference implementation does; else they are
    only centered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = cost_limits.parse_cost_limits(self.cost_limit, f"{type(self).__name__}.cost_limit")
        object.__setattr__(self, "cost_limit", limits)


class CostState(NamedTuple):
    """The part of a constrained learner's state that concerns costs, beside PPO's state.

    Attributes:
        critic_params: weights of the cost critics.
        critic_opt_state: state of their optimizer.
        critic_hidden_state: hidden state of the cost critics, ``[B, ...]``.
        value_statistics: running moments ``[K]`` of the sums of costs, or ().
        episode_cost: ``[N, K]`` J, mean undiscounted cost of the latest episodes.
        squared_cost: ``[N, K]``, mean square of the cost of the same episodes.
        error_factor: ``[]``, variance of J over the variance of the cost of an episode: the sum of
            the squared weights of the episodes in J.
        episode_length: ``[]``, mean length in steps of the episodes that ended last.
        living_share: ``[N]``, share of their steps in which the agent was in play, 0 to 1.
        has_estimate: ``[]``, 1 once finished episodes were reported, else 0; J and the length are
            lower bounds until then.
        multiplier: state of the algorithm's own multipliers and of the rule that changes them.
    """

    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree
    value_statistics: Moments
    episode_cost: Array
    squared_cost: Array
    error_factor: Array
    episode_length: Array
    living_share: Array
    has_estimate: Array
    multiplier: PyTree = ()


class ConstrainedState(NamedTuple):
    """State of a constrained learner, carried from update to update.

    Attributes:
        config: the algorithm's config with its floats as arrays.
        actor_params: parameters of the policies.
        actor_opt_state: state of their optimizer.
        critic_params: parameters of the critics of the reward.
        critic_opt_state: state of their optimizer.
        critic_hidden_state: their hidden state at the start of the next rollout, ``[B, ...]``.
        obs_normalizer: running moments of observations and global states, or ().
        value_statistics: running moments of the returns, or ().
        env_steps: ``[]``, environment steps so far.
        costs: the part that concerns costs.
    """

    config: Any
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    value_statistics: Moments
    env_steps: Array
    costs: CostState


class AgentConstraints(NamedTuple):
    """The limits of one agent in its turn; of all agents with a leading ``[N]``.

    Attributes:
        advantage: ``[K, T, B]``, advantages of the agent's costs, in the unit of cost.
        violation: ``[K]``, excess over each limit, in cost per episode; positive where broken.
        length: ``[]``, mean length of an episode in steps.
        living_share: ``[]``, share of its steps in which the agent is in play, 0 to 1.
        multiplier: ``[K]``, by the algorithm's own rule: Lagrange multipliers, or degrees of
            pessimism.
    """

    advantage: Array
    violation: Array
    length: Array
    living_share: Array
    multiplier: Array


class CostEstimate(NamedTuple):
    """Advantages and violations of the costs in a rollout.

    Attributes:
        advantage: ``[T, B, N, K]``, centered, in the unit of cost.
        target: ``[T, B, N, K]``, targets of the cost critics, in the critics' unit.
        upper_cost: ``[N, K]`` J + z SE(J), upper end of the interval of the mean cost per episode.
        violation: ``[N, K]`` d, in cost per episode; positive where a limit is exceeded.
        critic_hidden_state: hidden state of the cost critics after the rollout, ``[B, ...]``.
    """

    advantage: Array
    target: Array
    upper_cost: Array
    violation: Array
    critic_hidden_state: PyTree


def make_cost_critic(
    spec: EnvSpec, config: Any, body: NetworkSpec | Torso | None = None
) -> actor_critic.Critic:
    """Returns the cost critics of all agents, each with its own weights.

    Args:
        spec: the environment's sizes, costs and limits.
        config: a `sequential_update.SequentialConfig` that is a `CostConfig` as well.
        body: layers or torso of the critic; None: those of the config.

    Returns:
        A critic with values ``[..., N, K]``.

    Raises:
        ValueError: for limits that do not fit the environment's costs.
    """
    cost_limits.check(config.cost_limit, spec, f"{type(config).__name__}.cost_limit")
    return actor_critic.make_critic(
        spec, body or config.network_spec, config.critic_input, shared=False, costs=spec.num_costs
    )


def init_state(
    networks: SequentialNetworks,
    cost_critic: actor_critic.Critic,
    spec: EnvSpec,
    key: Array,
    num_envs: int,
    config: Any,
) -> ConstrainedState:
    """Returns the state of a constrained learner before the first rollout.

    Args:
        networks: policies and critics of the reward.
        cost_critic: the cost critics.
        spec: the environment's sizes.
        key: random key of the weights.
        num_envs: number of environments, B.
        config: a `CostConfig` with ``normalize_values``.

    Returns:
        The state, with costs of 0, without an estimate and without multipliers.
    """
    learner = ppo.init_state(
        ppo.PPONetworks(networks.actor, networks.critic), spec, key, num_envs, config, shared=False
    )
    config = learner.config
    critic_params = cost_critic.net.init(keys.for_purpose(key, keys.COST_CRITIC))
    optimizer = gradient_update.optimizer_of(config, "cost_critic_optimizer", per_agent=True)
    zeros = jnp.zeros((spec.num_agents, spec.num_costs), jnp.result_type(float))
    costs = CostState(
        critic_params=critic_params,
        critic_opt_state=optimizer.init(critic_params),
        critic_hidden_state=cost_critic.net.init_hidden_state(num_envs),
        value_statistics=running_statistics.init_running_statistics((spec.num_costs,))
        if config.normalize_values
        else (),
        episode_cost=zeros,
        squared_cost=zeros,
        error_factor=jnp.zeros((), zeros.dtype),
        episode_length=jnp.ones((), zeros.dtype),
        living_share=jnp.ones(spec.num_agents, zeros.dtype),
        has_estimate=jnp.zeros((), zeros.dtype),
    )
    return ConstrainedState(*learner, costs=costs)


def estimate_costs(
    critic: actor_critic.Critic,
    spec: EnvSpec,
    config: Any,
    state: CostState,
    batch: Rollout,
    steps: Transition,
) -> tuple[CostState, CostEstimate, dict[str, Array]]:
    """Computes advantages, critic targets and violations of all costs in a rollout.

    Args:
        critic: the cost critics.
        spec: the environment's sizes and limits.
        config: a `base_config.CriticConfig` that is a `CostConfig` as well.
        state: the state of the costs before the rollout.
        batch: the rollout.
        steps: the rollout's transitions as the networks see them, ``[T, B, ...]``.

    Returns:
        The state with updated statistics and episode costs (its critics and their hidden state
        are unchanged), the estimate, and metrics.
    """
    estimate = gradient_update.estimate_advantages(
        critic,
        gradient_update.CriticState(
            state.critic_params, state.critic_hidden_state, state.value_statistics
        ),
        steps,
        steps.cost,
        config.cost_gamma,
        config.cost_gae_lambda,
    )
    limit = cost_limits.as_array(config.cost_limit, spec)
    state = state._replace(value_statistics=estimate.value_statistics)
    state = update_episode_costs(state, batch, config)
    error = standard_error(state)
    upper_cost = state.episode_cost + jax.scipy.stats.norm.ppf(config.cost_confidence) * error
    # While J is a lower bound, it can show that a limit is broken, but never that it is kept.
    excess = upper_cost - limit
    excess = jnp.where(
        (state.has_estimate > 0) | jnp.isinf(limit), excess, jnp.maximum(excess, 0.0)
    )
    alive = steps.obs.alive
    if config.standardize_cost_advantages:
        advantage = actor_critic.standardize_advantages(estimate.advantage, alive, shared=False)
    else:
        advantage = (
            estimate.advantage
            - running_statistics.masked_mean(estimate.advantage, alive, (0, 1))[None, None]
        )
    info = {
        "cost_explained_variance": estimate.explained_variance,
        # The excess is -inf where there is no limit.
        "cost_violation": jnp.where(jnp.isinf(limit), 0.0, excess),
        "has_cost_estimate": state.has_estimate,
        "episode_cost_error": error,
    }
    return (
        state,
        CostEstimate(advantage, estimate.target, upper_cost, excess, estimate.hidden_state),
        info,
    )


def standard_error(state: CostState) -> Array:
    """Computes the standard error of the mean cost per episode.

        SE(J)² = f (Q - J²) / (1 - f)

    for the weighted mean J of independent episodes, the weighted mean Q of their squares, and the
    sum f of the squared weights: ``Q - J²`` is on average ``1 - f`` times an episode's variance.

    Args:
        state: the state of the costs.

    Returns:
        ``[N, K]``, in cost per episode; 0 where J has no episode, or one alone.
    """
    variance = jnp.maximum(state.squared_cost - state.episode_cost**2, 0.0)
    is_known = state.error_factor < 1.0
    factor = state.error_factor / jnp.where(is_known, 1.0 - state.error_factor, 1.0)
    return jnp.where(is_known, jnp.sqrt(factor * variance), 0.0)


def relative_violation(state: CostState, estimate: CostEstimate) -> Array:
    """Computes the violation of every limit relative to cost and limit.

        v = d / (J + z SE(J) + limit)

    Args:
        state: the state of the costs after `estimate_costs`.
        estimate: the estimate of the same call.

    Returns:
        ``[N, K]``, without unit, between -1 and 1. 0 without a limit, and 0 while the cost is not
        known, unless the cost so far already exceeds the limit.
    """
    limited = ~jnp.isinf(estimate.violation) & (
        (state.has_estimate > 0) | (estimate.violation > 0.0)
    )
    # violation is upper_cost - limit, except where it was raised to 0; that is masked below.
    total = 2.0 * estimate.upper_cost - estimate.violation
    return jnp.where(
        limited & (total > 0), estimate.violation / jnp.where(total > 0, total, 1.0), 0.0
    )


def update_episode_costs(state: CostState, batch: Rollout, config: Any) -> CostState:
    """Updates J, its squares and the lengths by the episodes that ended in a rollout.

    All of them stay as they are where no episode ended; but before any did, J and the length are
    lower bounds, the means over the first episodes so far, some of which still run.

    Args:
        state: the state of the costs.
        batch: the rollout.
        config: a `CostConfig`.

    Returns:
        The new state.
    """
    ended = batch.episode_stats
    any_ended = ended.count > 0
    if batch.first_episodes is not None:
        first = batch.first_episodes
        count = jnp.maximum(first.count, 1.0)
        lower_bounds = state._replace(
            episode_cost=first.costs / count,
            episode_length=jnp.maximum(first.lengths / count, 1.0),
            living_share=jnp.where(
                first.lengths > 0, first.living_steps / jnp.maximum(first.lengths, 1.0), 1.0
            ),
        )
        state = tree_math.where(state.has_estimate > 0, state, lower_bounds)
    count = jnp.maximum(ended.count, 1.0)
    mean_cost = ended.costs / count
    # The first finished episodes replace the lower bound as a whole: it has no weight in J.
    weight = jnp.where(state.has_estimate > 0, count / (count + config.cost_average_episodes), 1.0)

    def remember(mean: Array, of_latest: Array) -> Array:
        return jnp.where(any_ended, mean + weight * (of_latest - mean), mean)

    return state._replace(
        episode_cost=remember(state.episode_cost, mean_cost),
        squared_cost=remember(state.squared_cost, ended.squared_costs / count),
        error_factor=jnp.where(
            any_ended,
            (1.0 - weight) ** 2 * state.error_factor + weight**2 / count,
            state.error_factor,
        ),
        episode_length=jnp.where(any_ended, ended.lengths / count, state.episode_length),
        living_share=jnp.where(
            any_ended, ended.living_steps / jnp.maximum(ended.lengths, 1.0), state.living_share
        ),
        has_estimate=jnp.where(any_ended, 1.0, state.has_estimate),
    )


def agent_constraints(
    state: CostState, estimate: CostEstimate, multiplier: Array
) -> AgentConstraints:
    """Returns the limits of all agents as their turns take them.

    Args:
        state: the state of the costs after `estimate_costs`.
        estimate: the estimate of the same call.
        multiplier: ``[N, K]``, see `AgentConstraints`.

    Returns:
        The limits, every leaf ``[N, ...]``.
    """
    return AgentConstraints(
        jnp.transpose(estimate.advantage, (2, 3, 0, 1)),  # [N, K, T, B]
        estimate.violation,
        jnp.broadcast_to(state.episode_length, state.living_share.shape),
        state.living_share,
        multiplier,
    )


def fit_critics(
    key: Array,
    critics: tuple[actor_critic.Critic, actor_critic.Critic],
    learner: ConstrainedState,
    data: gradient_update.PolicyBatch,
    estimates: tuple[gradient_update.AdvantageEstimate, CostEstimate],
) -> tuple[ConstrainedState, dict[str, Array]]:
    """Fits the critics of reward and costs to a rollout.

    Args:
        key: random key of the minibatches.
        critics: the critics of the reward, and those of the costs.
        learner: the state of the learner.
        data: the rollout, ``[T, B, ...]``.
        estimates: the advantages of the reward, and those of the costs.

    Returns:
        The learner with its fitted critics, and metrics.
    """
    config, costs, (estimate, cost_estimate) = learner.config, learner.costs, estimates
    lr, cost_lr = (
        optimizers.learning_rate(rate, learner.env_steps, config.lr_anneal_steps)
        for rate in (config.critic_lr, config.cost_critic_lr)
    )
    fits = (
        CriticFit(
            critics[0],
            ModelState(learner.critic_params, learner.critic_opt_state),
            learner.critic_hidden_state,
            estimate.target,
            lr,
        ),
        CriticFit(
            critics[1],
            ModelState(costs.critic_params, costs.critic_opt_state),
            costs.critic_hidden_state,
            cost_estimate.target,
            cost_lr,
            "cost_critic_optimizer",
        ),
    )
    (critic, cost_critic), ((loss, grad_norm), (cost_loss, cost_grad_norm)) = (
        gradient_update.fit_critics(key, fits, data, config, config.num_epochs, shared=False)
    )
    return learner._replace(
        critic_params=critic.params,
        critic_opt_state=critic.opt_state,
        critic_hidden_state=estimate.hidden_state,
        value_statistics=estimate.value_statistics,
        costs=costs._replace(
            critic_params=cost_critic.params,
            critic_opt_state=cost_critic.opt_state,
            critic_hidden_state=cost_estimate.critic_hidden_state,
        ),
    ), {
        "explained_variance": estimate.explained_variance,
        "value_loss": loss,
        "critic_grad_norm": grad_norm,
        "cost_value_loss": cost_loss,
        "cost_critic_grad_norm": cost_grad_norm,
    }
