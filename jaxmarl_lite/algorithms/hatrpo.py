"""HATRPO: agents update in turn, each by a step in a trust region (Kuba et al., ICLR 2022, equations 8 to 10).

    max_θ  E[ ρ M ]   subject to   E[ KL(π_old || π_θ) ] <= δ

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`), the step that of
`trust_step` without costs: ``sqrt(2δ / g·H⁻¹g) H⁻¹g``, shortened until the policy itself keeps δ and improves. With one
agent it is TRPO (Schulman et al. 2015). Like the authors', it takes one step an agent and rollout, on the whole of it.
The search compares the surrogate with the same ratios as the gradient has; in the authors' program it does not.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, happo, models, ppo, trust_step, turns
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec


@configs.config_record
class TrustRegionConfig(ppo.PPOConfig):
    """Settings of a step in a trust region; of PPO's, those of its policy step (``lr``, ``clip``, ``entropy_coef``) are
    not used, and ``epochs`` and ``num_minibatches`` are the critics'."""

    delta: float = 0.01
    """Radius of the trust region: the mean KL divergence that a step may reach, in nats."""
    damping: float = 0.01
    """Multiple of the identity that is added to the Fisher matrix."""
    cg_iterations: int = 10
    """Most iterations of conjugate gradients."""
    cg_tolerance: float = 0.01
    """Relative residual at which conjugate gradients end."""
    cg_worst: float = 0.7
    """Relative residual beyond which a step is refused."""
    backtrack: float = 0.5
    """Factor between two tries of the line search."""
    tries: int = 10
    """Most tries of the line search."""
    accept_ratio: float = 0.1
    """Share of the promised gain that the surrogate must reach."""
    fisher_stride: int = 1
    """Fisher products take every n-th world."""
    critic_view: Literal["own", "state"] = "state"
    """What the critics see: the agent's own view or the state."""
    share_weights: bool = False
    """Agents that move in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        happo.check_own_weights(self)
        configs.check_range(
            self,
            delta=(1e-9, 10),
            damping=(0, 10),
            cg_tolerance=(0, 1),
            cg_worst=(0, 1e3),
            backtrack=(0.01, 0.99),
            accept_ratio=(0, 1),
        )
        configs.check_whole(self, cg_iterations=1, tries=1, fisher_stride=1)


@configs.config_record
class HATRPOConfig(TrustRegionConfig):
    """Settings of HATRPO."""


def make(name: str, spec: EnvSpec, config: HATRPOConfig) -> Algorithm:
    """HATRPO for an environment of these sizes; the config's static fields decide the networks."""
    same = ppo.make(name, spec, config)
    critic = models.critic(spec, config.form, config.critic_view, shared=False)
    of = ppo.Parts(models.lone_actor(spec, config.form), critic)

    def update(key: Array, learner: ppo.PPOState, batch: Batch) -> tuple[ppo.PPOState, dict[str, Array]]:
        return _update(of, spec, key, learner, batch)

    return same._replace(update=update)


def _update(
    of: ppo.Parts, spec: EnvSpec, key: Array, learner: ppo.PPOState, batch: Batch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    config = learner.config
    turn_key, critic_key = jax.random.split(key)
    steps = models.seen_through(learner.sight, batch.steps)
    steps = steps._replace(reward=turns.team_reward(spec.reward_kind, steps.reward))
    learner, found, info = ppo.estimate(of, learner, steps)
    data = ppo.policy_data(steps)
    each, advantage = turns.by_agent(data), found.advantage
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, shared=False)
    theta, of_turns = turns.in_turn(
        turn_key,
        learner.policy,
        (each, turns.memory_by_agent(batch.memory), advantage.transpose(2, 0, 1)),
        each.obs.alive,
        functools.partial(_turn, of.actor, config),
    )
    learner, fit = happo.fit_critic(of.critic, critic_key, learner._replace(policy=theta), data, found.target)
    return learner._replace(
        memory=found.memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | fit | of_turns


def _turn(actor: models.Actor, config: Any, key: Array, theta: Any, given: Any, factor: Array) -> Any:
    data, memory, advantage = given
    nothing = jnp.zeros((0, *factor.shape), factor.dtype)
    problem = trust_step.Problem(data, memory, factor * advantage, nothing, jnp.zeros(0, factor.dtype))
    return trust_step.policy_step(actor, theta, problem, config)
