"""MAPPO-Lagrangian: HAPPO with one Lagrange multiplier for each agent and cost.

    A^(λ) = A - Σ_k λ_k A_k,     λ_k <- max(0, λ_k + α d_k)

Source: Gu et al. 2021. ``A`` is the advantage of the team, ``A_k`` the agent's own advantage of its
own k-th cost, and ``d_k`` the cost of the latest episodes less the limit (`constraints`). Agents
update in turn, the ratios of those before them multiplying A^(λ) as a whole (section 4.3), or all
at once. The multipliers λ, one per agent and cost, are updated once per update of the agents. With
λ held at 0 it is HAPPO.

In the reference implementation one multiplier per agent changes by 1e-7 times the violation at
every minibatch: it is in effect a constant. Departures, each a setting:

- The multiplier also responds to the present violation, by the gain κ, because one that only
  integrates violations oscillates (Stooke et al. 2020).
- A^(λ) is divided by one plus the sum of the multipliers.
- Multipliers are by default relative, ``λ_k = μ_k σ(A)/σ(A_k)``, with violations as ``d_k / (J_k +
  limit_k)``, between -1 and 1, so that α and κ depend on no unit.

The reported metric is λ, in reward per cost.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms import (
    base_config,
    constraints,
    gradient_update,
    happo,
    optimizers,
    sequential_update,
)
from jaxmarl_lite.algorithms.gradient_update import ModelState
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, bodies_of
from jaxmarl_lite.ops import lagrange, running_statistics, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class MAPPOLagrangianConfig(happo.HAPPOConfig, constraints.CostConfig):
    """Settings of MAPPO-Lagrangian: those of HAPPO, and of limits on costs.

    Raises:
        ValueError: A setting has the wrong type or range, or has no effect beside the
            others.

    Example:
        The limit 2.0 replaces the environment's own for both agents. Multipliers are reported in
        each of 3 updates for each of 2 agents and 1 cost (``eval_shape`` returns shapes without
        training):

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/budget")
        >>> config = jml.MAPPOLagrangianConfig(hidden_sizes=(8,), cost_limit=2.0)
        >>> algorithm = jml.make_algorithm("mappo-lagrangian", env.spec, config)
        >>> init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=10)
        >>> _, metrics = jax.eval_shape(lambda key: train(init(key), 3), jax.random.key(0))
        >>> metrics["lagrange_multiplier"].shape
        (3, 2, 1)
        >>> jml.MAPPOLagrangianConfig.reference(simultaneous=True).multiplier_init
        0.78
    """

    multiplier_init: float = base_config.bounded(0.0, 0, 1e6)
    """Initial multiplier of every agent and cost, in the unit of ``multiplier_scaling``."""
    multiplier_ki: float = base_config.bounded(0.02, 0, 1e6)
    """Integral gain α: growth of a multiplier per update and unit of violation; the step size with
    the rule of Adam."""
    multiplier_kp: float = base_config.bounded(0.3, 0, 1e6)
    """Proportional gain κ: multiplier that the present violation adds, per unit of violation."""
    multiplier_max: float = base_config.bounded(100.0, 0, 1e9)
    """Highest multiplier, in the unit of ``multiplier_scaling``."""
    multiplier_optimizer: Literal["plain", "adam"] = "plain"
    """Whether multipliers ascend by the violation itself or by the rule of Adam."""
    multiplier_scaling: Literal["relative", "reward"] = "relative"
    """Unit of multipliers: relative to the standard deviations of the advantages, with violations
    as shares of cost and limit; or reward per cost, with violations in cost per episode."""
    normalize_by_multipliers: bool = True
    """Divide the advantage less the weighted costs by one plus the sum of relative multipliers."""
    simultaneous: bool = False
    """All agents update at the same time instead of in turn."""

    @classmethod
    def reference(cls, **changes: object) -> MAPPOLagrangianConfig:
        """Returns the reference implementation's settings for Ant 2x4, where fields exist for them.

        Its multipliers change at each of 200 minibatches, by ratios and advantages besides the
        violation; here they change once per update, by the violation as a share, at 200 times the
        rate, with its factor of 1 - gamma. Either way they are in effect constant. Its 40
        minibatches are of samples, those of this library of environments.

        Args:
            **changes: Fields that replace those of the reference implementation.

        Returns:
            The config.

        Raises:
            ValueError: A changed setting has the wrong type or range, or no effect.
        """
        reference_settings: dict[str, object] = dict(
            multiplier_init=0.78,
            multiplier_ki=200 * 1e-7 * 0.01,
            multiplier_kp=0.0,
            normalize_by_multipliers=False,
            standardize_cost_advantages=True,
            cost_gamma=0.99,
            lr=9e-5,
            critic_lr=5e-3,
            cost_critic_lr=5e-3,
            max_grad_norm=10.0,
            hidden_sizes=(64, 64),
            num_epochs=5,
            num_minibatches=8,
            normalize_values=True,
            normalize_observations=True,
        )
        return base_config.override(cls, reference_settings, changes)


class MultiplierState(NamedTuple):
    """The state of the rule that updates the multipliers.

    Attributes:
        integral: ``[N, K]``, the sum of the violations times α, in the unit of the multipliers.
        opt_state: State of Adam, or ``()``.
    """

    integral: Array
    opt_state: PyTree


def make_mappo_lagrangian(
    name: str, spec: EnvSpec, config: MAPPOLagrangianConfig, networks: Networks | None = None
) -> Algorithm:
    """Makes MAPPO-Lagrangian for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment, with one cost or more.
        config: Settings; the static fields decide the networks.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm.

    Raises:
        ValueError: The limits do not fit the costs of the environment.
    """
    bodies = bodies_of(name, networks, ("actor", "critic", "cost_critic"), config.network_spec)
    nets = sequential_update.make_networks(spec, config, bodies)
    cost_critic = constraints.make_cost_critic(spec, config, bodies.cost_critic)
    take_turns = (
        sequential_update.simultaneous_update
        if config.simultaneous
        else sequential_update.sequential_update
    )

    def init(
        key: Array, num_envs: int, config: MAPPOLagrangianConfig = config
    ) -> constraints.ConstrainedState:
        learner = constraints.init_state(nets, cost_critic, spec, key, num_envs, config)
        integral = jnp.full_like(learner.costs.episode_cost, learner.config.multiplier_init)
        opt_state = _adam.init(integral) if config.multiplier_optimizer == "adam" else ()
        costs = learner.costs._replace(multiplier=MultiplierState(integral, opt_state))
        return learner._replace(costs=costs)

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
        costs, multipliers = update_multipliers(config, costs, cost_estimate)
        data = gradient_update.to_policy_batch(steps)
        batches = sequential_update.agent_batches(
            data,
            batch.initial_hidden_state,
            estimate.advantage,
            constraints.agent_constraints(costs, cost_estimate, multipliers),
        )
        lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
        actors, turn_info = take_turns(
            turn_key,
            ModelState(learner.actor_params, learner.actor_opt_state),
            batches,
            batches.data.obs.alive,
            functools.partial(update_agent, nets.agent_actor, config, lr),
        )
        learner = learner._replace(
            actor_params=actors.params, actor_opt_state=actors.opt_state, costs=costs
        )
        learner, critic_info = constraints.fit_critics(
            critic_key,
            (nets.critic, cost_critic),
            learner,
            data,
            (estimate, cost_estimate),
        )
        learner = learner._replace(**gradient_update.end_of_update(learner, batch))
        metric = gradient_update.lr_metric(config, lr)
        return learner, info | critic_info | turn_info | metric

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


_adam = optax.scale_by_adam()


def update_multipliers(
    config: MAPPOLagrangianConfig, state: constraints.CostState, estimate: constraints.CostEstimate
) -> tuple[constraints.CostState, Array]:
    """Updates the multipliers by the violations of the latest episodes.

    A cost without a limit has the multiplier 0. Before an episode has ended, the multipliers stay
    as they were, unless the cost so far is over its limit.

    Args:
        config: Settings.
        state: State of the costs; its ``multiplier`` is a `MultiplierState`.
        estimate: Costs of the latest rollout.

    Returns:
        The state with its new `MultiplierState`, and the multipliers, ``[N, K]``, from 0 to
        ``multiplier_max``.
    """
    has_limit = ~jnp.isinf(estimate.violation)
    is_known = has_limit & ((state.has_estimate > 0) | (estimate.violation > 0))
    relative = config.multiplier_scaling == "relative"
    violation = (
        constraints.relative_violation(state, estimate)
        if relative
        else jnp.where(has_limit & is_known, estimate.violation, 0.0)
    )
    ascent, opt_state = violation, state.multiplier.opt_state
    if config.multiplier_optimizer == "adam":
        adam_ascent, new_opt_state = _adam.update(violation, opt_state)
        ascent = jnp.asarray(adam_ascent)
        opt_state = tree_math.where(is_known.any(), new_opt_state, opt_state)
    integral = lagrange.dual_ascent(
        state.multiplier.integral, ascent, config.multiplier_ki, config.multiplier_max
    )
    multiplier_state = MultiplierState(
        jnp.where(is_known, integral, state.multiplier.integral), opt_state
    )
    # the proportional term is added anew in each update, and is no part of the integral
    multiplier = lagrange.dual_ascent(
        multiplier_state.integral, violation, config.multiplier_kp, config.multiplier_max
    )
    return state._replace(multiplier=multiplier_state), jnp.where(has_limit, multiplier, 0.0)


def update_agent(
    actor: actor_critic.Actor,
    config: MAPPOLagrangianConfig,
    lr: Array,
    turn: sequential_update.Turn,
) -> tuple[ModelState, Array, dict[str, Array]]:
    """Updates the policy of one agent by HAPPO on the advantage A^(λ).

    Args:
        actor: Policy network of one agent.
        config: Settings.
        lr: Learning rate, ``[]``.
        turn: The turn, whose batch is a `sequential_update.AgentBatch` with the agent's
            `constraints.AgentConstraints`.

    Returns:
        The new state, the log-ratio ``[T, B]`` of the new policy to the old one at the actions of
        the batch, and metrics; ``lagrange_multiplier`` is λ, ``[K]``, in reward per cost.
    """
    agent_batch: sequential_update.AgentBatch = turn.batch
    limits: constraints.AgentConstraints = agent_batch.constraints
    alive = agent_batch.data.obs.alive
    reward_deviation = _deviation(agent_batch.advantage, alive)
    cost_deviation = jax.vmap(_deviation, (0, None))(limits.advantage, alive)
    # σ(A) / σ(A_k), from a relative multiplier to reward per cost; 0 for a cost that does not vary
    reward_per_cost = jnp.where(
        cost_deviation > 0,
        reward_deviation / jnp.where(cost_deviation > 0, cost_deviation, 1.0),
        0.0,
    )
    multiplier = limits.multiplier
    if config.multiplier_scaling == "relative":
        multipliers, relative_multipliers = multiplier * reward_per_cost, multiplier
    else:
        multipliers = multiplier
        relative_multipliers = multipliers / jnp.where(
            reward_per_cost > 0, reward_per_cost, jnp.inf
        )
    divisor = 1.0 + relative_multipliers.sum() if config.normalize_by_multipliers else jnp.ones(())

    def priced_advantage(advantages: tuple[Array, Array], alive: Array) -> Array:
        advantage, cost_advantages = advantages
        cost_penalty = jnp.tensordot(cost_advantages, multipliers, 1)
        if config.normalize_advantages:
            # the weighted costs keep their size relative to the reward, whose advantage is scaled
            deviation = _deviation(advantage, alive)
            cost_penalty = cost_penalty / jnp.where(deviation > 0, deviation, 1.0)
            advantage = actor_critic.standardize_advantages(advantage, alive, shared=False)
        return (advantage - cost_penalty) / divisor

    # costs last, [T, B, K], because minibatches are dealt along axis 1
    advantages = agent_batch.advantage, jnp.moveaxis(limits.advantage, 0, -1)
    state, log_ratio, info = happo.clipped_update(
        actor, config, lr, turn, advantages, priced_advantage
    )
    return state, log_ratio, info | {"lagrange_multiplier": multipliers}


def _deviation(x: Array, alive: Array) -> Array:
    """Computes the standard deviation of ``[T, B]`` over the living samples, ``[]``."""
    centred = x - running_statistics.masked_mean(x, alive)
    return jnp.sqrt(running_statistics.masked_mean(centred**2, alive))
