"""MACPO: agents update in turn, each by a trust-region step that keeps the limits on its costs.

    max_θ  E[ ρ M ]
    subject to   J_k + L E[ ρ A_k ] <= limit_k  (k = 1..K),   E[ KL(π_old || π_θ) ] <= δ

Source: Gu et al. 2021. ``M`` is the advantage of the team times the ratios of the agents that have
already updated (`sequential_update`); ``A_k`` is the agent's own advantage of its own k-th cost,
which does not carry the ratios of the others (section 4.2); ``J_k`` is the cost and ``L`` the
length of the latest episodes (`constraints`). The step solves the linear and quadratic model
exactly for up to four costs per agent, each with a limit of its own; where the limits cannot be met
inside the trust region, it is the step that breaks them least (`ops.constrained_optimization`,
`trust_region_update`). Without a limit that matters it is HATRPO.

Where a batch has little information about a cost, most of the decrease that a step promises is
noise: the step fits the noise, and the cost stays above its limit. Two settings that are not in the
paper answer that (`trust_region_update`). A pessimism μ takes off a share of the largest promise
p_k; it follows PI control,

    J_k + L (E[ ρ A_k ] + μ_k p_k) <= limit_k
    m_k <- clip(m_k + α v_k, 0, s),   μ_k = clip(m_k + κ v_k, 0, s)

with the violation as a share, ``v_k = (J_k - limit_k) / (J_k + limit_k)``
(`constraints.relative_violation`). And a step asks for a share s of p_k at most
(``recovery_share``), so that the reward is learnt while a limit is broken. α = κ = 0 and s = 1, the
defaults, are the method of the paper. With ``cost_confidence`` above 0.5 the upper end of J's
confidence interval stands for J in the limits and in v.

Where the reference implementation departs from the paper there is a setting, whose default follows
the paper; `MACPOConfig.reference` follows the reference implementation. The damping of 0.1 and the
standardized advantage of the reward are in the reference implementation and in common use. Not
taken over from it: one cost and one limit for all agents, the reversed sign of the log-deviation in
its KL divergence, episode costs that are some updates old and zeros before the first, one
normalizer of values for rewards and costs, and time limits treated as true ends.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import (
    base_config,
    constraints,
    gradient_update,
    optimizers,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.algorithms.gradient_update import ModelState, SequenceBatch
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, bodies_of
from jaxmarl_lite.ops import constrained_optimization, lagrange, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class MACPOConfig(trust_region_update.TrustRegionConfig, constraints.CostConfig):
    """Settings of MACPO: those of a step in a trust region, and of limits on costs.

    Raises:
        ValueError: A setting has the wrong type or range, or has no effect beside the
            others.

    Example:
        The limit 2.0 replaces the environment's own for both agents. Costs are reported in each of
        3 updates for each of 2 agents and 1 cost (``eval_shape`` returns shapes without training):

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/budget")
        >>> config = jml.MACPOConfig(hidden_sizes=(8,), cost_limit={"energy": 2.0})
        >>> algorithm = jml.make_algorithm("macpo", env.spec, config)
        >>> init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=10)
        >>> _, metrics = jax.eval_shape(lambda key: train(init(key), 3), jax.random.key(0))
        >>> metrics["cost_violation"].shape
        (3, 2, 1)
        >>> print(config.cost_limit)
        energy=2.0
        >>> jml.MACPOConfig.reference(target_kl=0.01).cost_ratio
        'product'
    """

    pessimism_ki: float = base_config.bounded(0.0, 0, 1e3)
    """Integral gain α: growth of the pessimism about a cost's promised decrease, per update and
    violation as a share of cost and limit."""
    pessimism_kp: float = base_config.bounded(0.0, 0, 1e3)
    """Proportional gain κ: pessimism that the present violation adds, per violation as a share of
    cost and limit."""
    recovery_share: float = base_config.bounded(1.0, 0, 1)
    """Largest share s of the most that a step can lower a cost which is asked of it; the reward has
    the rest of the step. 1: a limit that is out of reach has the whole step (the paper)."""
    cost_ratio: Literal["own", "corrected", "product"] = "own"
    """How the agents that have already updated enter a cost surrogate: not at all (own, the paper);
    by their ratios and by the change of cost that they caused (corrected); by their ratios alone
    (product, the reference implementation)."""
    per_dim_ratio: bool = False
    """Use one probability ratio per dimension of a continuous action and sum their gains, as the
    reference implementation does."""
    num_policy_minibatches: int = 1
    """Steps of each agent in an update, each on a part of the environments (reference
    implementation: 40). Limits and trust region then hold for each step by itself, and not for
    their sum."""
    cost_scale: Literal["episode_length", "discount"] = "episode_length"
    """Factor from a cost per episode to the scale of the surrogate: 1 / mean episode length, or
    1 - gamma as in the reference implementation."""

    @classmethod
    def reference(cls, **changes: object) -> MACPOConfig:
        """Returns the reference implementation's settings for Ant 2x4, where fields exist for them.

        Its 40 minibatches are of samples, those of this library of whole environments: set
        ``num_policy_minibatches`` as high as the number of environments allows.

        Args:
            **changes: Fields that replace those of the reference implementation.

        Returns:
            The config.

        Raises:
            ValueError: A changed setting has the wrong type or range, or no effect.
        """
        reference_settings: dict[str, object] = dict(
            target_kl=0.0065,
            cg_damping=0.1,
            cg_iters=10,
            cg_tol=0.0,
            cg_max_residual=1e3,
            initial_step_size=0.27,
            max_step_norm=0.5,
            accept_ratio=0.0,
            cost_ratio="product",
            per_dim_ratio=True,
            standardize_cost_advantages=True,
            cost_scale="discount",
            cost_gamma=0.99,
            critic_lr=5e-3,
            cost_critic_lr=5e-3,
            max_grad_norm=10.0,
            hidden_sizes=(64, 64),
            num_epochs=1,
            num_minibatches=1,
            num_policy_minibatches=1,
            normalize_values=True,
            normalize_observations=True,
        )
        return base_config.override(cls, reference_settings, changes)


def make_macpo(
    name: str, spec: EnvSpec, config: MACPOConfig, networks: Networks | None = None
) -> Algorithm:
    """Makes MACPO for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment, with 1 to `ops.constrained_optimization.MAX_COSTS` costs.
        config: Settings; the static fields decide the networks.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm.

    Raises:
        ValueError: The environment has too many costs, or the limits do not fit its costs.
    """
    bodies = bodies_of(name, networks, ("actor", "critic", "cost_critic"), config.network_spec)
    if spec.num_costs > constrained_optimization.MAX_COSTS:
        raise ValueError(
            f"{spec.name} has {spec.num_costs} costs; allowed for MACPO are 1 to "
            f"{constrained_optimization.MAX_COSTS}, because its step tries the sets of limits that "
            "may be met"
        )
    ratio_axes = ()
    if config.per_dim_ratio:
        ratio_axes = (1 if spec.action_type == "discrete" else spec.action_size,)
    nets = sequential_update.make_networks(spec, config, bodies)
    cost_critic = constraints.make_cost_critic(spec, config, bodies.cost_critic)

    def init(
        key: Array, num_envs: int, config: MACPOConfig = config
    ) -> constraints.ConstrainedState:
        learner = constraints.init_state(nets, cost_critic, spec, key, num_envs, config)
        integral = jnp.zeros_like(learner.costs.episode_cost)
        return learner._replace(costs=learner.costs._replace(multiplier=integral))

    def update(
        key: Array, learner: constraints.ConstrainedState, batch: Rollout
    ) -> tuple[constraints.ConstrainedState, dict[str, Array]]:
        config = learner.config
        turn_key, critic_key = jax.random.split(key)
        steps = sequential_update.team_transitions(spec, learner, batch)
        estimate = gradient_update.reward_advantages(nets.critic, learner, steps)
        costs, cost_estimate, info = constraints.estimate_costs(
            cost_critic, spec, config, learner.costs, batch, steps
        )
        costs, pessimism = update_pessimism(config, costs, cost_estimate)
        data = gradient_update.to_policy_batch(steps)
        batches = sequential_update.agent_batches(
            data,
            batch.initial_hidden_state,
            estimate.advantage,
            constraints.agent_constraints(costs, cost_estimate, pessimism),
        )
        actors, turn_info = sequential_update.sequential_update(
            turn_key,
            ModelState(learner.actor_params, learner.actor_opt_state),
            batches,
            batches.data.obs.alive,
            functools.partial(update_agent, nets.agent_actor, config),
            ratio_axes,
        )
        learner = learner._replace(actor_params=actors.params, costs=costs)
        learner, critic_info = constraints.fit_critics(
            critic_key,
            (nets.critic, cost_critic),
            learner,
            data,
            (estimate, cost_estimate),
        )
        critic_lr = optimizers.learning_rate(
            config.critic_lr, learner.env_steps, config.lr_anneal_steps
        )
        learner = learner._replace(**gradient_update.end_of_update(learner, batch))
        metric = gradient_update.lr_metric(config, critic_lr, "critic_optimizer")
        return learner, info | critic_info | turn_info | metric

    def check_sizes(num_envs: int, num_steps: int) -> None:
        for setting in ("num_minibatches", "num_policy_minibatches"):
            gradient_update.check_minibatches(num_envs, getattr(config, setting), setting)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def update_pessimism(
    config: MACPOConfig, state: constraints.CostState, estimate: constraints.CostEstimate
) -> tuple[constraints.CostState, Array]:
    """Updates the pessimism by the violations of the latest episodes.

        m_k <- clip(m_k + α v_k, 0, s),   μ_k = clip(m_k + κ v_k, 0, s)

    More than the share s is asked of no step, so that m stops there too.

    Args:
        config: Settings.
        state: State of the costs; its ``multiplier`` is the integral term m, ``[N, K]``.
        estimate: Costs of the latest rollout.

    Returns:
        The state with its new integral term, and the pessimism μ, ``[N, K]``, 0 to s.
    """
    violation, largest = constraints.relative_violation(state, estimate), config.recovery_share
    integral = lagrange.dual_ascent(state.multiplier, violation, config.pessimism_ki, largest)
    pessimism = lagrange.dual_ascent(integral, violation, config.pessimism_kp, largest)
    return state._replace(multiplier=integral), pessimism


def update_agent(
    actor: actor_critic.Actor, config: MACPOConfig, turn: sequential_update.Turn
) -> tuple[ModelState, Array, dict[str, Array]]:
    """Takes a trust-region step of one agent under its limits, or one for each minibatch.

    Args:
        actor: Policy network of one agent.
        config: Settings.
        turn: The turn, whose batch is a `sequential_update.AgentBatch` with the agent's
            `constraints.AgentConstraints`. Its factor is ``[T, B]``, or ``[T, B, A]``, by dimension
            of the action, with ``per_dim_ratio``.

    Returns:
        The new state, whose optimizer's state stays as it is, the log-ratio of the new policy to
        the old one at the actions of the batch, of the shape of the factor, and metrics, means over
        the steps.
    """
    batch: sequential_update.AgentBatch = turn.batch
    limits: constraints.AgentConstraints = batch.constraints
    data, hidden_state, advantage, factor = (*batch[:3], turn.factor)
    old_policy = actor.unroll(turn.state.params, hidden_state, data.obs, data.is_first)
    data = (
        data._replace(log_prob=trust_region_update.log_prob(old_policy, data.action, True))
        if config.per_dim_ratio
        else data
    )
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared=False)
    scale = 1.0 / limits.length if config.cost_scale == "episode_length" else 1.0 - config.gamma
    # the step takes means over the samples in which the agent lives; an episode's cost is a sum
    # over all of its steps
    cost_advantage = limits.living_share * limits.advantage
    violation = scale * limits.violation
    if config.cost_ratio == "corrected":
        violation = violation + change_by_others(limits.advantage, factor)
    if config.per_dim_ratio:
        advantage, cost_advantage = advantage[..., None], cost_advantage[..., None]
    cost_factor = jnp.ones_like(factor) if config.cost_ratio == "own" else factor
    cost_advantage = cost_advantage * cost_factor[None]

    def step(params: PyTree, minibatch: SequenceBatch) -> tuple[PyTree, dict[str, Array]]:
        data, weighted_advantage, cost_advantage = minibatch.steps
        problem = trust_region_update.TrustRegionProblem(
            data,
            minibatch.initial_states,
            weighted_advantage,
            jnp.moveaxis(cost_advantage, 2, 0),
            violation,
            limits.multiplier,
            config.recovery_share,
        )
        return trust_region_update.policy_step(actor, params, problem, config)

    # minibatches are dealt along axis 1, B: the axis K of costs goes behind it, and back in `step`
    sequences = SequenceBatch(
        (data, factor * advantage, jnp.moveaxis(cost_advantage, 0, 2)), hidden_state
    )
    params, info = jax.lax.scan(
        step,
        turn.state.params,
        gradient_update.make_minibatches(turn.key, sequences, config.num_policy_minibatches),
    )
    new_policy = actor.unroll(params, hidden_state, data.obs, data.is_first)
    log_ratio = (
        trust_region_update.log_prob(new_policy, data.action, config.per_dim_ratio) - data.log_prob
    )
    info = tree_math.map_leaves(lambda x: x.mean(0), info)
    return (
        turn.state._replace(params=params),
        log_ratio,
        info | {"cost_pessimism": limits.multiplier},
    )


def change_by_others(cost_advantage: Array, factor: Array) -> Array:
    """Computes by how much the agents that updated before changed this agent's costs.

    It is ``E[(Π ρ - 1) A_k]``. The mean is over all steps: another agent may change a cost after
    the one that pays it has left play.

    Args:
        cost_advantage: ``[K, T, B]``, advantages of the costs of one agent.
        factor: ``[T, B]``, product of the probability ratios of the agents that updated before; or
            ``[T, B, A]``, by dimension of the action: then the sum of the changes by dimension.

    Returns:
        ``[K]``, change in cost per step.

    Example:
        The others made the costly step (advantage 1) 1.5 times as likely, and the other one half as
        likely:

        >>> import jax.numpy as jnp
        >>> change_by_others(jnp.array([[[1.0], [-1.0]]]), jnp.array([[1.5], [0.5]])).tolist()
        [0.5]
    """
    change = factor - 1.0 if factor.ndim == 2 else (factor - 1.0).sum(-1)
    return (cost_advantage * change[None]).mean((1, 2))
