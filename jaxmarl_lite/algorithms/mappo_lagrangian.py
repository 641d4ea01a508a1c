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

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms import base_config, constraints, happo, ppo, sequential_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import lagrange, running_statistics, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree


@base_config.config_record
class MAPPOLagrangianConfig(happo.HAPPOConfig, constraints.CostConfig):
    """Settings of MAPPO-Lagrangian: those of HAPPO, and of limits on costs.

    Raises:
        ValueError: A setting has the wrong type or range, has no effect beside the others, or
            ``parameter_sharing`` is True.

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

    multiplier_init: float = 0.0
    """Initial multiplier of every agent and cost, in the unit of ``multiplier_scaling``."""
    multiplier_ki: float = 0.02
    """Integral gain α: growth of a multiplier per update and unit of violation; the step size with
    the rule of Adam."""
    multiplier_kp: float = 0.3
    """Proportional gain κ: multiplier that the present violation adds, per unit of violation."""
    multiplier_max: float = 100.0
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

    def __post_init__(self) -> None:
        super().__post_init__()
        constraints.check(self)
        base_config.check_range(
            self,
            multiplier_init=(0, 1e6),
            multiplier_ki=(0, 1e6),
            multiplier_kp=(0, 1e6),
            multiplier_max=(0, 1e9),
        )

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


def make_mappo_lagrangian(name: str, spec: EnvSpec, config: MAPPOLagrangianConfig) -> Algorithm:
    """Makes MAPPO-Lagrangian for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment, with one cost or more.
        config: Settings; the static fields decide the networks.

    Returns:
        The algorithm.

    Raises:
        ValueError: The limits do not fit the costs of the environment.
    """
    algorithm = sequential_update.make_sequential(
        name,
        spec,
        config,
        sequential_update.UpdateSpec(
            update_agent,
            constrained=True,
            update_multipliers=update_multipliers,
            simultaneous=config.simultaneous,
        ),
    )

    def init(key: Array, num_envs: int, config: MAPPOLagrangianConfig = config) -> ppo.PPOState:
        learner_state = algorithm.init(key, num_envs, config)
        integral = jnp.full_like(
            learner_state.costs.episode_cost, learner_state.config.multiplier_init
        )
        opt_state = _adam.init(integral) if config.multiplier_optimizer == "adam" else ()
        return learner_state._replace(
            costs=learner_state.costs._replace(multiplier=MultiplierState(integral, opt_state))
        )

    return algorithm._replace(init=init)


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
    env_steps: Array,
    key: Array,
    actor_state: sequential_update.ActorState,
    agent_batch: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """Updates the policy of one agent by HAPPO on the advantage A^(λ).

    Args:
        actor: Policy network of one agent.
        config: Settings.
        env_steps: ``[]``, environment steps before this update, for the learning rate.
        key: Random key of the minibatches.
        actor_state: Weights and optimizer state of the agent.
        agent_batch: Data of the agent, leaves ``[T, B, ...]``, with its constraints.
        factor: ``[T, B]``, product of the probability ratios of the agents that updated before.

    Returns:
        The new `ActorState`, the log-ratio ``[T, B]`` of the new policy to the old one at the
        actions of the batch, and metrics; ``multiplier`` is λ, ``[K]``, in reward per cost.
    """
    agent_constraints = agent_batch.constraints
    assert isinstance(agent_constraints, sequential_update.AgentConstraints)
    alive = agent_batch.data.obs.alive
    reward_deviation = _deviation(agent_batch.advantage, alive)
    cost_deviation = jax.vmap(_deviation, (0, None))(agent_constraints.advantage, alive)
    # σ(A) / σ(A_k), from a relative multiplier to reward per cost; 0 for a cost that does not vary
    reward_per_cost = jnp.where(
        cost_deviation > 0,
        reward_deviation / jnp.where(cost_deviation > 0, cost_deviation, 1.0),
        0.0,
    )
    multiplier = agent_constraints.multiplier
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
    advantages = agent_batch.advantage, jnp.moveaxis(agent_constraints.advantage, 0, -1)
    actor_state, log_ratio, info = happo.clipped_update(
        actor,
        config,
        env_steps,
        key,
        actor_state,
        agent_batch,
        advantages,
        factor,
        priced_advantage,
    )
    return actor_state, log_ratio, info | {"lagrange_multiplier": multipliers}


def _deviation(x: Array, alive: Array) -> Array:
    """Computes the standard deviation of ``[T, B]`` over the living samples, ``[]``."""
    centred = x - running_statistics.masked_mean(x, alive)
    return jnp.sqrt(running_statistics.masked_mean(centred**2, alive))
