"""Independent actor-critic and central-V: one step along the policy gradient on every batch.

    ∇_θ J = E[ ∇_θ log π_θ(u|o) A ] + c ∇_θ E[ H(π_θ) ]

Foerster et al. 2018 (COMA), sections 4 and 6: the critic of IAC-V sees what its agent sees,
central-V's the state. A is the generalized advantage, so that A + V is the TD(λ) target which both
critics are fitted to. A batch moves the policy once, while the ratio to the policy that acted is 1;
the critic, which may go on, takes several passes. The paper shares layers of actor and critic and
has one step of the critic per time step; here they are apart, as everywhere.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax

from jaxmarl_lite.algorithms import base_config, minibatch, ppo, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import running_statistics, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class IACConfig(settings.AgentConfig):
    """Settings of independent actor-critic."""

    gae_lambda: float = 0.8
    """λ of the TD(λ) targets and of the advantage: 0 is one step, 1 the whole return."""
    critic_epochs: int = 4
    """Passes of the critic over each batch; the policy takes one step."""
    critic_input: Literal["local", "global_state"] = "local"
    """What the critic sees: the agent's own view (IAC) or the state (central-V)."""
    normalize_values: bool = False
    """Let the critic predict returns standardized by their running moments."""


@base_config.config_record
class CentralVConfig(IACConfig):
    """Settings of central-V: independent actors with a critic of the state."""

    critic_input: Literal["local", "global_state"] = "global_state"
    """What the critic sees: the agent's own view (IAC) or the state (central-V)."""


def make_iac(name: str, spec: EnvSpec, config: IACConfig) -> Algorithm:
    """IAC or central-V for an environment of these sizes; the config's static fields decide the
    networks.
    """
    return ppo.make_ppo(name, spec, config, _update)


def policy_gradient_loss(
    theta: PyTree,
    actor: actor_critic.Actor,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: settings.AgentConfig,
) -> tuple[Array, dict[str, Array]]:
    """Minus the function whose gradient is at the head of this file, and what one may look at.

    Args:
        theta: the policy's weights.
        data, hidden_state: a batch and the policy's memory at its start.
        advantage: ``[T, B, N]``.
    """
    pi = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    entropy = pi.entropy()
    gain = pi.log_prob(data.action) * advantage + config.entropy_coef * entropy
    info = {"entropy": running_statistics.masked_mean(entropy, data.obs.alive)}
    return -actor_critic.masked_agent_mean(gain, data.obs.alive, config.parameter_sharing), info


def policy_step(
    actor: actor_critic.Actor,
    learner: Any,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
) -> tuple[Any, dict[str, Array]]:
    """One step of a learner's policy on a whole batch."""
    config = learner.config
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (loss, info), grads = jax.value_and_grad(policy_gradient_loss, has_aux=True)(
        learner.actor_params, actor, data, hidden_state, advantage, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    policy, opt = ppo.optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    info |= {"policy_loss": loss, "policy_grad_norm": tree_math.norm(grads)}
    return learner._replace(actor_params=policy, actor_opt_state=opt), info


def _update(
    of: ppo.PPONetworks, key: Array, learner: ppo.PPOState, batch: Rollout
) -> tuple[ppo.PPOState, dict[str, Array]]:
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    learner, found, info = ppo.estimate(of, learner, steps)
    data = ppo.to_policy_batch(steps)
    learner, moved = policy_step(
        of.actor, learner, data, batch.initial_hidden_state, found.advantage
    )
    minibatches = minibatch.SequenceBatch((data, found.target), learner.critic_hidden_state)
    learner, fit = minibatch.run_epochs(
        key,
        learner,
        minibatches,
        functools.partial(_critic_step, of),
        config.critic_epochs,
        config.num_minibatches,
    )
    return learner._replace(
        critic_hidden_state=found.hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | moved | fit | minibatch.learning_rate_metric(learner.config, learner.env_steps)


def _critic_step(
    of: ppo.PPONetworks, learner: ppo.PPOState, batch: minibatch.SequenceBatch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    data, target = batch.steps
    return ppo.update_critic(of.critic, learner, data, batch.initial_states, target)
