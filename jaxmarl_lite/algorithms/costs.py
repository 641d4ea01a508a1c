"""Costs of constrained algorithms: critics and advantages of each agent's each cost, and how far its limit is broken.

    A^i_k = GAE of the cost C^i_k,   d^i_k = J^i_k - (1 - margin) limit^i_k,   c^i_k = (d^i_k + s^i_k) / episode length

``J^i_k`` is the mean undiscounted cost of the episodes that ended last, or a moving average (``cost_episodes``; not in
the paper). A step raises the cost of an episode by about its length times ``E[ρ A_k]``, hence c, in cost per step, is
what stands beside that surrogate (Gu et al. 2021, section 4.2, for costs whose discount is close to 1). The mean is
over all steps of an episode: of an agent in play for a part of them alone, whose ratio is 1 in the others, it is the
mean over the steps in play times their share. Before every environment has finished an episode J is not known, for the
first to end are the short ones. What the first episodes have cost so far is a lower bound of it: where that is over the
limit it stands for J, and elsewhere c is 0, so that no room under a limit is claimed. The reserve s is 0 in the paper.
A step keeps its limit in the linear model of the cost, and the cost itself may settle above it all the same; a reserve
that grows while it does, and shrinks while it does not, brings it down. It stays between 0 and the limit, so it cannot
help a limit of 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, fitting, limits, models, ppo, values
from jaxmarl_lite.algorithms.limits import CostLimit, Limits
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import trees
from jaxmarl_lite.types import Array, Batch, EnvSpec, Episodes, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """Settings of algorithms that keep limits on costs."""

    cost_limit: CostLimit = Limits()
    """Limits by the cost's name, one for all agents or one each, in cost per episode; else the environment's own."""
    cost_margin: float = 0.0
    """Share of each limit that is kept as a margin."""
    cost_episodes: float = 0.0
    """Earlier episodes w that the mean cost J remembers: as n end, J moves by n / (n + w) towards their mean. Relative
    multipliers hardly see how far a rare costly episode is over a limit; in an average over many they do."""
    reserve_rate: float = 0.0
    """Growth of the reserve under a limit, per update with finished episodes and unit of cost beyond the limit."""
    cost_gamma: float = 0.999
    """Discount of costs per step; limits are on undiscounted costs."""
    cost_gae_lambda: float = 0.95
    """Mixing of n-step sums in the cost advantages."""
    cost_critic_lr: float = 5e-4
    """Learning rate of the cost critics."""
    standardise_cost: bool = False
    """Scale cost advantages to deviation 1, as the authors' program does; else they are only centred."""


def check(config: Any) -> None:
    """Make ``cost_limit`` a record of limits; raise ValueError for a setting out of range."""
    object.__setattr__(config, "cost_limit", limits.of(config.cost_limit, f"{type(config).__name__}.cost_limit"))
    configs.check_range(
        config,
        cost_margin=(0, 0.99),
        reserve_rate=(0, 1e3),
        cost_episodes=(0, 1e6),
        cost_gamma=(0, 1),
        cost_gae_lambda=(0, 1),
        cost_critic_lr=(0, 10),
    )


class CostState(NamedTuple):
    """What a constrained learner carries besides PPO's state."""

    critic: PyTree
    critic_opt: PyTree
    memory: PyTree  # the cost critics', [B, ...]
    value_moments: values.Moments  # [K] of the sums of costs
    episode_cost: Array  # [N, K] J, mean undiscounted cost of the latest episodes
    episode_length: Array  # [] mean length of those that ended last
    living_share: Array  # [N] share of their steps in which the agent was in play
    known: Array  # [] 1 once episodes were reported, else 0; J and the length are then lower bounds
    reserve: Array  # [N, K] s, in cost per episode, from 0 to the limit
    multiplier: Any = ()  # an algorithm's own, with the state of the rule by which they move


class Costs(NamedTuple):
    """What a rollout says of the costs."""

    advantage: Array  # [T, B, N, K] centred, in the unit of cost
    target: Array  # [T, B, N, K] of the critics, in the critics' unit
    excess: Array  # [N, K] d + s, in cost per episode; positive where a limit, less margin and reserve, is broken
    memory: PyTree  # the critics' after the rollout


def critic_of(spec: EnvSpec, config: Any) -> models.Critic:
    """The cost critics of all agents."""
    return models.critic(spec, config.form, config.critic_view, shared=False, costs=spec.num_costs)


def initial(key: Array, critic: models.Critic, spec: EnvSpec, config: Any, num_envs: int) -> CostState:
    """Before anything was seen."""
    phi = critic.net.init(key)
    nothing = jnp.zeros((spec.num_agents, spec.num_costs), jnp.result_type(float))
    return CostState(
        critic=phi,
        critic_opt=ppo.rule(config).init(phi),
        memory=critic.net.initial_memory(num_envs),
        value_moments=moments_of.initial_moments((spec.num_costs,)) if config.normalise_value else (),
        episode_cost=nothing,
        episode_length=jnp.ones((), nothing.dtype),
        living_share=jnp.ones(spec.num_agents, nothing.dtype),
        known=jnp.zeros((), nothing.dtype),
        reserve=nothing,
    )


def estimate(
    critic: models.Critic, spec: EnvSpec, config: Any, state: CostState, batch: Batch, steps: Transition
) -> tuple[CostState, Costs, dict[str, Array]]:
    """Advantages, targets and excesses of a rollout; ``steps`` are the batch's as the networks see them."""
    found, moments, explained = values.estimate(
        critic, state.critic, state.memory, state.value_moments, steps, steps.cost, config.cost_gamma,
        config.cost_gae_lambda,
    )  # fmt: skip
    limit = (1.0 - config.cost_margin) * limits.matrix(config.cost_limit, spec)
    state = _with_episodes(state._replace(value_moments=moments), batch, limit, config)
    # While J is a lower bound, it can show that a limit is broken, but never that it is kept.
    excess = state.episode_cost - limit
    excess = jnp.where((state.known > 0) | jnp.isinf(limit), excess, jnp.maximum(excess, 0.0))
    alive = models.like(steps.obs.alive, found.advantage)
    if config.standardise_cost:
        advantage = models.standardised(found.advantage, alive, shared=False)
    else:
        advantage = found.advantage - moments_of.masked_mean(found.advantage, alive, (0, 1))[None, None]
    info = {
        "cost_explained_variance": explained,
        "cost_excess": jnp.where(jnp.isinf(limit), 0.0, excess),
        "cost_known": state.known,
        "cost_reserve": state.reserve,
    }
    return state, Costs(advantage, found.target, excess + state.reserve, found.memory), info


def share(state: CostState, found: Costs) -> Array:
    """``(d + s) / (J + limit)``, ``[N, K]``, between -1 and 1 without a reserve; 0 without a limit, and 0 while the
    cost is not known, unless what has been paid so far is over the limit."""
    limited = ~jnp.isinf(found.excess) & ((state.known > 0) | (found.excess > state.reserve))
    limit = state.episode_cost - (found.excess - state.reserve)
    total = state.episode_cost + limit
    return jnp.where(limited & (total > 0), found.excess / jnp.where(total > 0, total, 1.0), 0.0)


def _with_running_episodes(state: CostState, begun: Episodes) -> CostState:
    """Replaces J and the episode length by lower bounds: means over the first episodes, of which some still run."""
    count = jnp.maximum(begun.count, 1.0)
    return state._replace(
        episode_cost=begun.costs / count,
        episode_length=jnp.maximum(begun.length / count, 1.0),
        living_share=jnp.where(begun.length > 0, begun.living_steps / jnp.maximum(begun.length, 1.0), 1.0),
    )


def _with_episodes(state: CostState, batch: Batch, limit: Array, config: Any) -> CostState:
    """The mean cost with the episodes that ended in a rollout, and the reserve; the old ones where none did."""
    ended = batch.episodes
    some = ended.count > 0
    if batch.begun is not None:
        state = trees.select(state.known > 0, state, _with_running_episodes(state, batch.begun))
    count = jnp.maximum(ended.count, 1.0)
    latest = ended.costs / count
    weight = jnp.where(state.known > 0, count / (count + config.cost_episodes), 1.0)
    up = config.reserve_rate * jnp.where(jnp.isinf(limit), 0.0, latest - limit)
    reserve = jnp.clip(state.reserve + up, 0.0, limit)
    return state._replace(
        reserve=jnp.where(some, reserve, state.reserve),
        episode_cost=jnp.where(some, state.episode_cost + weight * (latest - state.episode_cost), state.episode_cost),
        episode_length=jnp.where(some, ended.length / count, state.episode_length),
        living_share=jnp.where(some, ended.living_steps / jnp.maximum(ended.length, 1.0), state.living_share),
        known=jnp.where(some, 1.0, state.known),
    )


def critic_step(
    critic: models.Critic,
    config: Any,
    seen: Array,
    state: CostState,
    data: ppo.PolicyData,
    memory: PyTree,
    target: Array,
) -> tuple[CostState, dict[str, Array]]:
    """One gradient step of the cost critics on a minibatch."""
    lr = fitting.annealed(config.cost_critic_lr, seen, config.anneal_steps)
    weights, error, length = ppo.fitted(critic, config, lr, (state.critic, state.critic_opt), data, memory, target)
    info = {"cost_value_loss": error, "cost_critic_grad_norm": length}
    return state._replace(critic=weights[0], critic_opt=weights[1]), info
