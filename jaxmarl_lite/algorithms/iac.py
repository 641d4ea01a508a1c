"""Independent actor-critic and central-V: one policy gradient step on every batch.

    ∇_θ J = E[ ∇_θ log π_θ(u|o) A ] + c ∇_θ E[ H(π_θ) ]

Foerster et al. 2018 (COMA), sections 4 and 6: the critic of IAC-V receives its agent's observation,
the critic of central-V receives the global state. A is the generalized advantage, so that A + V is
the TD(λ) target that both critics are fitted to. The policy takes one step per batch, while its
ratio to the policy that acted is 1; the critic may continue and takes several passes. The paper
shares layers between actor and critic and steps the critic once per time step; here actor and
critic are separate networks, as in the other algorithms.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, TypeVar

from jaxmarl_lite.algorithms import base_config, minibatch, ppo, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import jax_types, running_statistics, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout

if TYPE_CHECKING:
    from jaxmarl_lite.algorithms import coma

Learner = TypeVar("Learner", ppo.PPOState, "coma.COMAState")


@base_config.config_record
class IACConfig(settings.AgentConfig):
    """Settings of independent actor-critic.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> algorithm = jml.make_algorithm("iac", env.spec, jml.IACConfig(critic_epochs=2))
        >>> algorithm.config.critic_epochs, algorithm.config.critic_input
        (2, 'local')
    """

    gae_lambda: float = 0.8
    """λ of the TD(λ) targets and of the advantage: 0 is one step, 1 the whole return."""
    critic_epochs: int = 4
    """Passes of the critic over each batch; the policy takes one step."""
    critic_input: Literal["local", "global_state"] = "local"
    """Input of the critic: the agent's own observation (IAC) or the global state (central-V)."""
    normalize_values: bool = False
    """Let the critic predict returns standardized by their running moments."""


@base_config.config_record
class CentralVConfig(IACConfig):
    """Settings of central-V: independent actors with a critic of the global state.

    Example:
        >>> import dataclasses
        >>> import jaxmarl_lite as jml
        >>> config = dataclasses.replace(jml.CentralVConfig(), gae_lambda=1.0)
        >>> config.gae_lambda, config.critic_input
        (1.0, 'global_state')
        >>> jml.make_algorithm("central-v", jml.make("toy/relay").spec, config).name
        'central-v'
    """

    critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the critic: the agent's own observation (IAC) or the global state (central-V)."""


def make_iac(name: str, spec: EnvSpec, config: IACConfig) -> Algorithm:
    """Returns IAC or central-V for one environment.

    The static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.

    Returns:
        The algorithm, whose learner's state is a `ppo.PPOState`.
    """
    return ppo.make_ppo(name, spec, config, _update)


def policy_gradient_loss(
    actor_params: PyTree,
    actor: actor_critic.Actor,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: settings.AgentConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the function whose gradient is in the module docstring.

    Args:
        actor_params: parameters of the policy network.
        actor: the policies.
        data: a batch ``[T, B, ...]``.
        hidden_state: the policy's hidden state at the start of the batch, ``[B, ...]``.
        advantage: ``[T, B, N]``.
        config: settings; it reads ``entropy_coef`` and ``parameter_sharing``.

    Returns:
        The loss, scalar, and the metric ``entropy``, in nats.
    """
    pi = actor.unroll(actor_params, hidden_state, data.obs, data.is_first)
    entropy = pi.entropy()
    gain = pi.log_prob(data.action) * advantage + config.entropy_coef * entropy
    info = {"entropy": running_statistics.masked_mean(entropy, data.obs.alive)}
    return -actor_critic.masked_agent_mean(gain, data.obs.alive, config.parameter_sharing), info


def policy_step(
    actor: actor_critic.Actor,
    learner: Learner,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
) -> tuple[Learner, dict[str, Array]]:
    """Takes one gradient step of a learner's policy on a whole batch.

    Args:
        actor: the policies.
        learner: the state of the learner.
        data: a batch ``[T, B, ...]``.
        hidden_state: the policy's hidden state at the start of the batch, ``[B, ...]``.
        advantage: ``[T, B, N]``; standardized here if ``normalize_advantages`` is set.

    Returns:
        The learner after the step, and the metrics ``entropy``, ``policy_loss`` and
        ``policy_grad_norm``.
    """
    config = learner.config
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (loss, info), grads = jax_types.value_and_grad(policy_gradient_loss, has_aux=True)(
        learner.actor_params, actor, data, hidden_state, advantage, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    actor_params, opt_state = ppo.optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    info |= {"policy_loss": loss, "policy_grad_norm": tree_math.norm(grads)}
    return learner._replace(actor_params=actor_params, actor_opt_state=opt_state), info


def _update(
    networks: ppo.PPONetworks, key: Array, learner: ppo.PPOState, batch: Rollout
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Learns from a rollout: one step of the policy, then epochs of the critic."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    learner, estimates, info = ppo.estimate(networks, learner, steps)
    data = ppo.to_policy_batch(steps)
    learner, policy_info = policy_step(
        networks.actor, learner, data, batch.initial_hidden_state, estimates.advantage
    )
    minibatches = minibatch.SequenceBatch((data, estimates.target), learner.critic_hidden_state)
    learner, critic_info = minibatch.run_epochs(
        key,
        learner,
        minibatches,
        functools.partial(_critic_step, networks),
        config.critic_epochs,
        config.num_minibatches,
    )
    # The moments of observations change last: the whole update reads the moments that acted.
    return (
        learner._replace(
            critic_hidden_state=estimates.hidden_state,
            obs_normalizer=actor_critic.update_obs_normalizer(
                learner.obs_normalizer, batch.transitions.obs
            ),
            env_steps=learner.env_steps + batch.transitions.last.size,
        ),
        info
        | policy_info
        | critic_info
        | minibatch.learning_rate_metric(learner.config, learner.env_steps),
    )


def _critic_step(
    networks: ppo.PPONetworks, learner: ppo.PPOState, batch: minibatch.SequenceBatch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Takes one gradient step of the critic on a minibatch."""
    data, target = batch.steps
    return ppo.update_critic(networks.critic, learner, data, batch.initial_states, target)
