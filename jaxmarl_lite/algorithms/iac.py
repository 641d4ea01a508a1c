"""Independent actor-critic and central-V: one step along the policy gradient on every batch.

    ∇_θ J = E[ ∇_θ log π_θ(u|o) A ] + c ∇_θ E[ H(π_θ) ]

Foerster et al. 2018 (COMA), sections 4 and 6: the critic of IAC-V sees what its agent sees, central-V's the state. A is
the generalised advantage, so that A + V is the TD(λ) target which both critics are fitted to. A batch moves the policy
once, while the ratio to the policy that acted is 1; the critic, which may go on, takes several passes. The paper shares
layers of actor and critic and has one step of the critic per time step; here they are apart, as everywhere.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax

from jaxmarl_lite.algorithms import configs, fitting, models, ppo, settings
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import trees
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, PyTree


@configs.config_record
class IACConfig(settings.AgentConfig):
    """Settings of independent actor-critic."""

    gae_lambda: float = 0.8
    """λ of the TD(λ) targets and of the advantage: 0 is one step, 1 the whole return."""
    critic_epochs: int = 4
    """Passes of the critic over each batch; the policy takes one step."""
    critic_view: Literal["own", "state"] = "own"
    """What the critic sees: the agent's own view (IAC) or the state (central-V)."""
    normalise_value: bool = False
    """Let the critic predict returns standardised by their running moments."""


@configs.config_record
class CentralVConfig(IACConfig):
    """Settings of central-V: independent actors with a critic of the state."""

    critic_view: Literal["own", "state"] = "state"
    """What the critic sees: the agent's own view (IAC) or the state (central-V)."""


def make(name: str, spec: EnvSpec, config: IACConfig) -> Algorithm:
    """IAC or central-V for an environment of these sizes; the config's static fields decide the networks."""
    return ppo.make(name, spec, config, _update)


def policy_gradient_loss(
    theta: PyTree, actor: models.Actor, data: ppo.PolicyData, memory: PyTree, advantage: Array,
    config: settings.AgentConfig,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """Minus the function whose gradient is at the head of this file, and what one may look at.

    Args:
        theta: the policy's weights.
        data, memory: a batch and the policy's memory at its start.
        advantage: ``[T, B, N]``.
    """
    pi = actor.unroll(theta, memory, data.obs, data.first)
    entropy = pi.entropy()
    gain = pi.log_prob(data.action) * advantage + config.entropy_coef * entropy
    info = {"entropy": moments_of.masked_mean(entropy, data.obs.alive)}
    return -models.agent_mean(gain, data.obs.alive, config.share_weights), info


def policy_step(
    actor: models.Actor, learner: Any, data: ppo.PolicyData, memory: PyTree, advantage: Array
) -> tuple[Any, dict[str, Array]]:
    """One step of a learner's policy on a whole batch."""
    config = learner.config
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, config.share_weights)
    (loss, info), grads = jax.value_and_grad(policy_gradient_loss, has_aux=True)(
        learner.policy, actor, data, memory, advantage, config
    )
    lr = fitting.annealed(config.lr, learner.seen, config.anneal_steps)
    policy, opt = ppo.rule(config).step(learner.policy, learner.policy_opt, grads, lr, config.max_grad_norm)
    info |= {"policy_loss": loss, "policy_grad_norm": trees.norm(grads)}
    return learner._replace(policy=policy, policy_opt=opt), info


def _update(of: ppo.Parts, key: Array, learner: ppo.PPOState, batch: Batch) -> tuple[ppo.PPOState, dict[str, Array]]:
    config = learner.config
    steps = models.seen_through(learner.sight, batch.steps)
    learner, found, info = ppo.estimate(of, learner, steps)
    data = ppo.policy_data(steps)
    learner, moved = policy_step(of.actor, learner, data, batch.memory, found.advantage)
    minibatches = fitting.Sequences((data, found.target), learner.memory)
    learner, fit = fitting.epochs(
        key, learner, minibatches, functools.partial(_critic_step, of), config.critic_epochs, config.num_minibatches
    )
    return learner._replace(
        memory=found.memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | moved | fit | fitting.rate_info(learner.config, learner.seen)


def _critic_step(
    of: ppo.Parts, learner: ppo.PPOState, batch: fitting.Sequences
) -> tuple[ppo.PPOState, dict[str, Array]]:
    data, target = batch.steps
    return ppo.critic_step(of.critic, learner, data, batch.starts, target)
