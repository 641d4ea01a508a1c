"""MACPO: agents in turn, each by a step in a trust region that keeps the limits on its costs (Gu et al. 2021).

    max_θ  E[ ρ M ]   subject to   J_k + L E[ ρ A_k ] <= limit_k  (k = 1..K),   E[ KL(π_old || π_θ) ] <= δ

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`); ``A_k`` is the
agent's own advantage of its own k-th cost, which does not carry the others' ratios (section 4.2); ``J_k`` is the cost
and ``L`` the length of the latest episodes (`costs`). The step solves the linear and quadratic model exactly for up to
four costs per agent, each with a limit of its own; where the limits cannot be met inside the trust region it is the one
that breaks them least (`maths.constrained`, `trust_step`). Without a limit that matters it is HATRPO.

Where a batch says little of a cost, most of what a step promises of it is noise: the step fits it, and the cost stays
above its limit. A doubt μ, not in the paper, takes off a share of the largest promise p_k (`trust_step`); it moves by
PI control,

    J_k + L (E[ ρ A_k ] + μ_k p_k) <= limit_k,     m_k <- clip(m_k + α v_k, 0, 1),   μ_k = clip(m_k + κ v_k, 0, 1)

with the violation as a share, ``v_k = (J_k - limit_k) / (J_k + limit_k)`` (`costs.share`). With μ = 1 the reward has no
part in a step while a limit is broken; until an agent has kept its limit for the first time, ``doubt_first`` stands for
the 1. α = κ = 0, the default, is the paper's method.

Where the authors' program departs from the paper there is a setting, the paper's by default; `MACPOConfig.authors` has
theirs. The damping of 0.1 and the standardised advantage of the reward are theirs and everybody's. Not taken over: one
cost and one limit for all agents, the reversed sign of the log-deviation in their KL divergence, episode costs that are
some updates old and zeros before the first, one normaliser of values for rewards and costs, time limits taken for true
ends.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, costs, fitting, models, trust_step, turns
from jaxmarl_lite.maths import constrained, multiplier
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@configs.config_record
class MACPOConfig(trust_step.TrustRegionConfig, costs.CostConfig):
    """Settings of MACPO."""

    doubt_rate: float = 0.0
    """α, growth of the doubt of a cost's promise, per update and violation as a share of cost and limit."""
    doubt_gain: float = 0.0
    """κ, what the present violation adds to the doubt, per violation as a share of cost and limit."""
    doubt_first: float = 1.0
    """Largest doubt before the limit has been kept for the first time, so that reward is learnt on the way there."""
    others_on_cost: Literal["ignored", "counted", "ratios"] = "ignored"
    """How the agents that have moved enter a cost surrogate: not at all (the paper); by their ratios, and by what they
    already changed (counted); by their ratios alone (the authors' program)."""
    by_dimension: bool = False
    """One probability ratio per dimension of a continuous action, their gains summed (the authors' program)."""
    policy_minibatches: int = 1
    """Steps of each agent in an update, each on a part of the worlds (the authors' program: 40). Limits and trust
    region then hold for each step by itself, and not for their sum."""
    cost_scale: Literal["episode_length", "discount"] = "episode_length"
    """What brings a cost per episode to the surrogate's scale: 1 / mean episode length, or the authors' 1 - gamma."""

    def __post_init__(self) -> None:
        super().__post_init__()
        costs.check(self)
        configs.check_range(self, doubt_rate=(0, 1e3), doubt_gain=(0, 1e3), doubt_first=(0, 1))
        never = all(isinstance(x, float) and x == 0.0 for x in (self.doubt_rate, self.doubt_gain))
        configs.check_unused(self, ("doubt_first",), never, "with doubt_rate and doubt_gain 0")

    @classmethod
    def authors(cls, **changes: Any) -> MACPOConfig:
        """The choices and numbers of the authors' program for Ant 2x4, as far as they are choices.

        Their 40 minibatches are of samples, ours of whole worlds: give as many as the worlds allow.
        """
        theirs: dict[str, Any] = dict(
            delta=0.0065, damping=0.1, cg_iterations=10, cg_tolerance=0.0, cg_worst=1e3, first_fraction=0.27,
            max_step_norm=0.5, accept_ratio=0.0, others_on_cost="ratios", by_dimension=True, standardise_cost=True,
            cost_scale="discount", cost_gamma=0.99, critic_lr=5e-3, cost_critic_lr=5e-3, max_grad_norm=10.0,
            hidden=(64, 64), epochs=1, num_minibatches=1, policy_minibatches=1, normalise_value=True,
            normalise_view=True,
        )  # fmt: skip
        return configs.override(cls, theirs, changes)


def make(name: str, spec: EnvSpec, config: MACPOConfig) -> Algorithm:
    """MACPO for an environment of these sizes; the config's static fields decide the networks."""
    if spec.num_costs > constrained.MOST_COSTS:
        raise ValueError(
            f"{spec.name} has {spec.num_costs} costs; allowed for MACPO are 1 to {constrained.MOST_COSTS}, because "
            "its step tries the sets of limits that may be met"
        )
    terms = () if not config.by_dimension else (1 if spec.action_kind == "discrete" else spec.action_size,)
    made = turns.make(name, spec, config, turns.Rules(turn, limits=True, terms=terms, price=doubt))

    def init(key: Array, num_envs: int, config: Any = config) -> Any:
        learner = made.init(key, num_envs, config)
        none = jnp.zeros_like(learner.costs.episode_cost)
        return learner._replace(costs=learner.costs._replace(multiplier=Doubts(none, none)))

    def check(num_envs: int, num_steps: int) -> None:
        made.check(num_envs, num_steps)
        fitting.check_minibatches(num_envs, config.policy_minibatches, "policy_minibatches")

    return made._replace(init=init, check=check)


class Doubts(NamedTuple):
    """What moves the doubts."""

    sum: Array  # [N, K] m
    kept: Array  # [N, K] 1 once J has been within the limit


def doubt(config: MACPOConfig, state: costs.CostState, found: costs.Costs) -> tuple[costs.CostState, Array]:
    """The doubts m moved by the latest violations, and μ, ``[N, K]``."""
    violation, now = costs.share(state, found), state.multiplier
    kept = jnp.where((state.known > 0) & (found.excess <= 0.0), 1.0, now.kept)
    most = jnp.where(kept > 0, 1.0, config.doubt_first)
    summed = multiplier.ascend(now.sum, violation, config.doubt_rate, most)
    moved = state._replace(multiplier=Doubts(summed, kept))
    return moved, multiplier.ascend(summed, violation, config.doubt_gain, most)


def turn(
    actor: models.Actor, config: MACPOConfig, seen: Array, key: Array, model: turns.Model, given: turns.Given,
    factor: Array,
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """A step in the trust region under the agent's limits; several, where the worlds are dealt into minibatches."""
    data, memory, advantage, limited = given
    assert isinstance(limited, turns.Limited)
    old = actor.unroll(model.policy, memory, data.obs, data.first)
    data = data._replace(log_prob=trust_step.log_prob(old, data.action, True)) if config.by_dimension else data
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, shared=False)
    scale = 1.0 / limited.length if config.cost_scale == "episode_length" else 1.0 - config.gamma
    # the step takes means over the samples in which the agent lives; an episode's cost is a sum over all of its steps
    cost_advantage, violation = limited.living_share * limited.advantage, scale * limited.excess
    if config.others_on_cost == "counted":
        violation = violation + change_by_others(limited.advantage, factor)
    if config.by_dimension:
        advantage, cost_advantage = advantage[..., None], cost_advantage[..., None]
    others = jnp.ones_like(factor) if config.others_on_cost == "ignored" else factor
    cost_advantage = cost_advantage * others[None]

    def step(theta: Any, part: fitting.Sequences) -> tuple[Any, dict[str, Array]]:
        data, gain, cost = part.steps
        problem = trust_step.Problem(data, part.starts, gain, jnp.moveaxis(cost, 2, 0), violation, limited.multiplier)
        return trust_step.policy_step(actor, theta, problem, config)

    whole = fitting.Sequences((data, factor * advantage, jnp.moveaxis(cost_advantage, 0, 2)), memory)
    theta, info = jax.lax.scan(step, model.policy, fitting.deal(key, whole, config.policy_minibatches))
    new = actor.unroll(theta, memory, data.obs, data.first)
    log_ratio = trust_step.log_prob(new, data.action, config.by_dimension) - data.log_prob
    info = jax.tree.map(lambda x: x.mean(0), info) | {"cost_doubt": limited.multiplier}
    return model._replace(policy=theta), log_ratio, info


def change_by_others(cost_advantage: Array, factor: Array) -> Array:
    """Computes how much the agents that have moved changed this agent's costs, ``E[(Π ρ - 1) A_k]``.

    The mean is over all steps: another agent may change a cost after the one that pays it has left play.

    Args:
        cost_advantage: ``[K, T, B]``, of the costs of one agent.
        factor: ``[T, B]``, product of the probability ratios of those that have moved; or ``[T, B, A]``, by dimension
            of the action: then the sum of the changes by dimension.

    Returns:
        ``[K]``, in cost per step.
    """
    change = factor - 1.0 if factor.ndim == 2 else (factor - 1.0).sum(-1)
    return (cost_advantage * change[None]).mean((1, 2))
