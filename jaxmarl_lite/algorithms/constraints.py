"""Costs of constrained algorithms: critics and advantages of each agent's each cost, and how far
its limit is broken.

    A^i_k = GAE of the cost C^i_k,   d^i_k = J^i_k - (1 - margin) limit^i_k,   c^i_k = (d^i_k +
    s^i_k) / episode length

``J^i_k`` is the mean undiscounted cost of the episodes that ended last, or a moving average
(``cost_average_episodes``; not in the paper). A step raises the cost of an episode by about its
length times ``E[ρ A_k]``, hence c, in cost per step, is what stands beside that surrogate (Gu et
al. 2021, section 4.2, for costs whose discount is close to 1). The mean is over all steps of an
episode: of an agent in play for a part of them alone, whose ratio is 1 in the others, it is the
mean over the steps in play times their share. Before every environment has finished an episode J is
not known, for the first to end are the short ones. What the first episodes have cost so far is a
lower bound of it: where that is over the limit it stands for J, and elsewhere c is 0, so that no
room under a limit is claimed. The reserve s is 0 in the paper. A step keeps its limit in the linear
model of the cost, and the cost itself may settle above it all the same; a reserve that grows while
it does, and shrinks while it does not, brings it down. It stays between 0 and the limit, so it
cannot help a limit of 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.algorithms import advantages, base_config, cost_limits, minibatch, ppo
from jaxmarl_lite.algorithms.cost_limits import CostLimit, CostLimits
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import running_statistics, tree_math
from jaxmarl_lite.types import Array, EnvSpec, EpisodeStats, PyTree, Rollout, Transition


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """Settings of algorithms that keep limits on costs."""

    cost_limit: CostLimit = CostLimits()
    """Limits by the cost's name, one for all agents or one each, in cost per episode; else the
    environment's own."""
    cost_margin: float = 0.0
    """Share of each limit that is kept as a margin."""
    cost_average_episodes: float = 0.0
    """Earlier episodes w that the mean cost J remembers: as n end, J moves by n / (n + w) towards
    their mean. Relative multipliers hardly see how far a rare costly episode is over a limit; in an
    average over many they do."""
    adaptive_margin_lr: float = 0.0
    """Growth of the reserve under a limit, per update with finished episodes and unit of cost
    beyond the limit."""
    cost_gamma: float = 0.999
    """Discount of costs per step; limits are on undiscounted costs."""
    cost_gae_lambda: float = 0.95
    """Mixing of n-step sums in the cost advantages."""
    cost_critic_lr: float = 5e-4
    """Learning rate of the cost critics."""
    standardize_cost_advantages: bool = False
    """Scale cost advantages to deviation 1, as the authors' program does; else they are only
    centred."""


def check(config: Any) -> None:
    """Make ``cost_limit`` a record of limits; raise ValueError for a setting out of range."""
    object.__setattr__(
        config,
        "cost_limit",
        cost_limits.parse_cost_limits(config.cost_limit, f"{type(config).__name__}.cost_limit"),
    )
    base_config.check_range(
        config,
        cost_margin=(0, 0.99),
        adaptive_margin_lr=(0, 1e3),
        cost_average_episodes=(0, 1e6),
        cost_gamma=(0, 1),
        cost_gae_lambda=(0, 1),
        cost_critic_lr=(0, 10),
    )


class CostState(NamedTuple):
    """What a constrained learner carries besides PPO's state."""

    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree  # the cost critics', [B, ...]
    value_statistics: advantages.Moments  # [K] of the sums of costs
    episode_cost: Array  # [N, K] J, mean undiscounted cost of the latest episodes
    episode_length: Array  # [] mean length of those that ended last
    living_share: Array  # [N] share of their steps in which the agent was in play
    has_estimate: (
        Array  # [] 1 once episodes were reported, else 0; J and the length are then lower bounds
    )
    adaptive_margin: Array  # [N, K] s, in cost per episode, from 0 to the limit
    multiplier: Any = ()  # an algorithm's own, with the state of the rule by which they move


class CostEstimate(NamedTuple):
    """What a rollout says of the costs."""

    advantage: Array  # [T, B, N, K] centred, in the unit of cost
    target: Array  # [T, B, N, K] of the critics, in the critics' unit
    violation: Array  # [N, K] d + s, in cost per episode; positive where a limit, less margin and reserve, is broken
    critic_hidden_state: PyTree  # the critics' after the rollout


def make_cost_critic(spec: EnvSpec, config: Any) -> actor_critic.Critic:
    """The cost critics of all agents."""
    return actor_critic.make_critic(
        spec, config.network_spec, config.critic_input, shared=False, costs=spec.num_costs
    )


def init_cost_state(
    key: Array, critic: actor_critic.Critic, spec: EnvSpec, config: Any, num_envs: int
) -> CostState:
    """Before anything was seen."""
    phi = critic.net.init(key)
    nothing = jnp.zeros((spec.num_agents, spec.num_costs), jnp.result_type(float))
    return CostState(
        critic_params=phi,
        critic_opt_state=ppo.optimizer_of(config).init(phi),
        critic_hidden_state=critic.net.init_hidden_state(num_envs),
        value_statistics=running_statistics.init_running_statistics((spec.num_costs,))
        if config.normalize_values
        else (),
        episode_cost=nothing,
        episode_length=jnp.ones((), nothing.dtype),
        living_share=jnp.ones(spec.num_agents, nothing.dtype),
        has_estimate=jnp.zeros((), nothing.dtype),
        adaptive_margin=nothing,
    )


def estimate_costs(
    critic: actor_critic.Critic,
    spec: EnvSpec,
    config: Any,
    state: CostState,
    batch: Rollout,
    steps: Transition,
) -> tuple[CostState, CostEstimate, dict[str, Array]]:
    """Advantages, targets and excesses of a rollout; ``steps`` are the batch's as the networks see
    them.
    """
    found, moments, explained = advantages.estimate_advantages(
        critic,
        state.critic_params,
        state.critic_hidden_state,
        state.value_statistics,
        steps,
        steps.cost,
        config.cost_gamma,
        config.cost_gae_lambda,
    )
    limit = (1.0 - config.cost_margin) * cost_limits.as_array(config.cost_limit, spec)
    state = _update_episode_costs(state._replace(value_statistics=moments), batch, limit, config)
    # While J is a lower bound, it can show that a limit is broken, but never that it is kept.
    excess = state.episode_cost - limit
    excess = jnp.where(
        (state.has_estimate > 0) | jnp.isinf(limit), excess, jnp.maximum(excess, 0.0)
    )
    alive = actor_critic.expand_mask(steps.obs.alive, found.advantage)
    if config.standardize_cost_advantages:
        advantage = actor_critic.standardize_advantages(found.advantage, alive, shared=False)
    else:
        advantage = (
            found.advantage
            - running_statistics.masked_mean(found.advantage, alive, (0, 1))[None, None]
        )
    info = {
        "cost_explained_variance": explained,
        "cost_violation": jnp.where(jnp.isinf(limit), 0.0, excess),
        "has_cost_estimate": state.has_estimate,
        "adaptive_margin": state.adaptive_margin,
    }
    return (
        state,
        CostEstimate(advantage, found.target, excess + state.adaptive_margin, found.hidden_state),
        info,
    )


def relative_violation(state: CostState, found: CostEstimate) -> Array:
    """``(d + s) / (J + limit)``, ``[N, K]``, between -1 and 1 without a reserve; 0 without a limit,
    and 0 while the cost is not known, unless what has been paid so far is over the limit.
    """
    limited = ~jnp.isinf(found.violation) & (
        (state.has_estimate > 0) | (found.violation > state.adaptive_margin)
    )
    limit = state.episode_cost - (found.violation - state.adaptive_margin)
    total = state.episode_cost + limit
    return jnp.where(limited & (total > 0), found.violation / jnp.where(total > 0, total, 1.0), 0.0)


def _use_running_episodes(state: CostState, begun: EpisodeStats) -> CostState:
    """Replaces J and the episode length by lower bounds: means over the first episodes, of which
    some still run.
    """
    count = jnp.maximum(begun.count, 1.0)
    return state._replace(
        episode_cost=begun.costs / count,
        episode_length=jnp.maximum(begun.lengths / count, 1.0),
        living_share=jnp.where(
            begun.lengths > 0, begun.living_steps / jnp.maximum(begun.lengths, 1.0), 1.0
        ),
    )


def _update_episode_costs(state: CostState, batch: Rollout, limit: Array, config: Any) -> CostState:
    """The mean cost with the episodes that ended in a rollout, and the reserve; the old ones where
    none did.
    """
    ended = batch.episode_stats
    some = ended.count > 0
    if batch.first_episodes is not None:
        state = tree_math.where(
            state.has_estimate > 0, state, _use_running_episodes(state, batch.first_episodes)
        )
    count = jnp.maximum(ended.count, 1.0)
    latest = ended.costs / count
    weight = jnp.where(state.has_estimate > 0, count / (count + config.cost_average_episodes), 1.0)
    up = config.adaptive_margin_lr * jnp.where(jnp.isinf(limit), 0.0, latest - limit)
    reserve = jnp.clip(state.adaptive_margin + up, 0.0, limit)
    return state._replace(
        adaptive_margin=jnp.where(some, reserve, state.adaptive_margin),
        episode_cost=jnp.where(
            some, state.episode_cost + weight * (latest - state.episode_cost), state.episode_cost
        ),
        episode_length=jnp.where(some, ended.lengths / count, state.episode_length),
        living_share=jnp.where(
            some, ended.living_steps / jnp.maximum(ended.lengths, 1.0), state.living_share
        ),
        has_estimate=jnp.where(some, 1.0, state.has_estimate),
    )


def update_cost_critic(
    critic: actor_critic.Critic,
    config: Any,
    seen: Array,
    state: CostState,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    target: Array,
) -> tuple[CostState, dict[str, Array]]:
    """One gradient step of the cost critics on a minibatch."""
    lr = minibatch.linear_schedule(config.cost_critic_lr, seen, config.lr_anneal_steps)
    weights, error, length = ppo.value_gradient_step(
        critic,
        config,
        lr,
        (state.critic_params, state.critic_opt_state),
        data,
        hidden_state,
        target,
    )
    info = {"cost_value_loss": error, "cost_critic_grad_norm": length}
    return state._replace(critic_params=weights[0], critic_opt_state=weights[1]), info
