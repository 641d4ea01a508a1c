"""MACPO: agents in turn, each by a step in a trust region that keeps the limits on its costs (Gu et
al. 2021).

    max_θ  E[ ρ M ]   subject to   J_k + L E[ ρ A_k ] <= limit_k  (k = 1..K),   E[ KL(π_old || π_θ)
    ] <= δ

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`);
``A_k`` is the agent's own advantage of its own k-th cost, which does not carry the others' ratios
(section 4.2); ``J_k`` is the cost and ``L`` the length of the latest episodes (`costs`). The step
solves the linear and quadratic model exactly for up to four costs per agent, each with a limit of
its own; where the limits cannot be met inside the trust region it is the one that breaks them least
(`ops.constrained_optimization`, `trust_region_update`). Without a limit that matters it is HATRPO.

Where a batch says little of a cost, most of what a step promises of it is noise: the step fits it,
and the cost stays above its limit. A doubt μ, not in the paper, takes off a share of the largest
promise p_k (`trust_region_update`); it moves by PI control,

    J_k + L (E[ ρ A_k ] + μ_k p_k) <= limit_k,     m_k <- clip(m_k + α v_k, 0, 1),   μ_k = clip(m_k + κ v_k, 0, 1)

with the violation as a share, ``v_k = (J_k - limit_k) / (J_k + limit_k)``
(`costs.relative_violation`). With μ = 1 the reward has no part in a step while a limit is broken;
until an agent has kept its limit for the first time, ``pessimism_max_initial`` stands for the 1. α
= κ = 0, the default, is the paper's method.

Where the authors' program departs from the paper there is a setting, the paper's by default;
`MACPOConfig.reference` has theirs. The damping of 0.1 and the standardized advantage of the reward
are theirs and everybody's. Not taken over: one cost and one limit for all agents, the reversed sign
of the log-deviation in their KL divergence, episode costs that are some updates old and zeros
before the first, one normalizer of values for rewards and costs, time limits taken for true ends.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import (
    base_config,
    constraints,
    minibatch,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import constrained_optimization, lagrange
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@base_config.config_record
class MACPOConfig(trust_region_update.TrustRegionConfig, constraints.CostConfig):
    """Settings of MACPO."""

    pessimism_ki: float = 0.0
    """α, growth of the doubt of a cost's promise, per update and violation as a share of cost and
    limit."""
    pessimism_kp: float = 0.0
    """κ, what the present violation adds to the doubt, per violation as a share of cost and
    limit."""
    pessimism_max_initial: float = 1.0
    """Largest doubt before the limit has been kept for the first time, so that reward is learnt on
    the way there."""
    cost_ratio: Literal["own", "corrected", "product"] = "own"
    """How the agents that have moved enter a cost surrogate: not at all (the paper); by their
    ratios, and by what they already changed (corrected); by their ratios alone (product, the
    authors' program)."""
    per_dim_ratio: bool = False
    """One probability ratio per dimension of a continuous action, their gains summed (the authors'
    program)."""
    num_policy_minibatches: int = 1
    """Steps of each agent in an update, each on a part of the worlds (the authors' program: 40).
    Limits and trust region then hold for each step by itself, and not for their sum."""
    cost_scale: Literal["episode_length", "discount"] = "episode_length"
    """What brings a cost per episode to the surrogate's scale: 1 / mean episode length, or the
    authors' 1 - gamma."""

    def __post_init__(self) -> None:
        super().__post_init__()
        constraints.check(self)
        base_config.check_range(
            self, pessimism_ki=(0, 1e3), pessimism_kp=(0, 1e3), pessimism_max_initial=(0, 1)
        )
        never = all(
            isinstance(x, float) and x == 0.0 for x in (self.pessimism_ki, self.pessimism_kp)
        )
        base_config.check_unused(
            self, ("pessimism_max_initial",), never, "with pessimism_ki and pessimism_kp 0"
        )

    @classmethod
    def reference(cls, **changes: Any) -> MACPOConfig:
        """The choices and numbers of the authors' program for Ant 2x4, as far as they are choices.

        Their 40 minibatches are of samples, ours of whole worlds: give as many as the worlds allow.
        """
        theirs: dict[str, Any] = dict(
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
        return base_config.override(cls, theirs, changes)


def make_macpo(name: str, spec: EnvSpec, config: MACPOConfig) -> Algorithm:
    """MACPO for an environment of these sizes; the config's static fields decide the networks."""
    if spec.num_costs > constrained_optimization.MAX_COSTS:
        raise ValueError(
            f"{spec.name} has {spec.num_costs} costs; allowed for MACPO are 1 to "
            f"{constrained_optimization.MAX_COSTS}, because "
            "its step tries the sets of limits that may be met"
        )
    terms = (
        ()
        if not config.per_dim_ratio
        else (1 if spec.action_type == "discrete" else spec.action_size,)
    )
    made = sequential_update.make_sequential(
        name,
        spec,
        config,
        sequential_update.UpdateSpec(
            update_agent, constrained=True, ratio_axes=terms, update_multipliers=update_pessimism
        ),
    )

    def init(key: Array, num_envs: int, config: Any = config) -> Any:
        learner = made.init(key, num_envs, config)
        none = jnp.zeros_like(learner.costs.episode_cost)
        return learner._replace(costs=learner.costs._replace(multiplier=PessimismState(none, none)))

    def check(num_envs: int, num_steps: int) -> None:
        made.check_sizes(num_envs, num_steps)
        minibatch.check_minibatches(
            num_envs, config.num_policy_minibatches, "num_policy_minibatches"
        )

    return made._replace(init=init, check_sizes=check)


class PessimismState(NamedTuple):
    """What moves the doubts."""

    integral: Array  # [N, K] m
    was_feasible: Array  # [N, K] 1 once J has been within the limit


def update_pessimism(
    config: MACPOConfig, state: constraints.CostState, found: constraints.CostEstimate
) -> tuple[constraints.CostState, Array]:
    """The doubts m moved by the latest violations, and μ, ``[N, K]``."""
    violation, now = constraints.relative_violation(state, found), state.multiplier
    kept = jnp.where((state.has_estimate > 0) & (found.violation <= 0.0), 1.0, now.was_feasible)
    most = jnp.where(kept > 0, 1.0, config.pessimism_max_initial)
    summed = lagrange.dual_ascent(now.integral, violation, config.pessimism_ki, most)
    moved = state._replace(multiplier=PessimismState(summed, kept))
    return moved, lagrange.dual_ascent(summed, violation, config.pessimism_kp, most)


def update_agent(
    actor: actor_critic.Actor,
    config: MACPOConfig,
    seen: Array,
    key: Array,
    model: sequential_update.ActorState,
    given: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """A step in the trust region under the agent's limits; several, where the worlds are dealt into
    minibatches.
    """
    data, hidden_state, advantage, limited = given
    assert isinstance(limited, sequential_update.AgentConstraints)
    old = actor.unroll(model.params, hidden_state, data.obs, data.is_first)
    data = (
        data._replace(log_prob=trust_region_update.log_prob(old, data.action, True))
        if config.per_dim_ratio
        else data
    )
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared=False)
    scale = 1.0 / limited.length if config.cost_scale == "episode_length" else 1.0 - config.gamma
    # the step takes means over the samples in which the agent lives; an episode's cost is a sum
    # over all of its steps
    cost_advantage, violation = limited.living_share * limited.advantage, scale * limited.violation
    if config.cost_ratio == "corrected":
        violation = violation + change_by_others(limited.advantage, factor)
    if config.per_dim_ratio:
        advantage, cost_advantage = advantage[..., None], cost_advantage[..., None]
    others = jnp.ones_like(factor) if config.cost_ratio == "own" else factor
    cost_advantage = cost_advantage * others[None]

    def step(theta: Any, part: minibatch.SequenceBatch) -> tuple[Any, dict[str, Array]]:
        data, gain, cost = part.steps
        problem = trust_region_update.TrustRegionProblem(
            data, part.initial_states, gain, jnp.moveaxis(cost, 2, 0), violation, limited.multiplier
        )
        return trust_region_update.policy_step(actor, theta, problem, config)

    whole = minibatch.SequenceBatch(
        (data, factor * advantage, jnp.moveaxis(cost_advantage, 0, 2)), hidden_state
    )
    theta, info = jax.lax.scan(
        step, model.params, minibatch.make_minibatches(key, whole, config.num_policy_minibatches)
    )
    new = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    log_ratio = trust_region_update.log_prob(new, data.action, config.per_dim_ratio) - data.log_prob
    info = jax.tree.map(lambda x: x.mean(0), info) | {"cost_pessimism": limited.multiplier}
    return model._replace(params=theta), log_ratio, info


def change_by_others(cost_advantage: Array, factor: Array) -> Array:
    """Computes how much the agents that have moved changed this agent's costs, ``E[(Π ρ - 1)
    A_k]``.

    The mean is over all steps: another agent may change a cost after the one that pays it has left
    play.

    Args:
        cost_advantage: ``[K, T, B]``, of the costs of one agent.
        factor: ``[T, B]``, product of the probability ratios of those that have moved; or ``[T, B,
            A]``, by dimension of the action: then the sum of the changes by dimension.

    Returns:
        ``[K]``, in cost per step.
    """
    change = factor - 1.0 if factor.ndim == 2 else (factor - 1.0).sum(-1)
    return (cost_advantage * change[None]).mean((1, 2))
