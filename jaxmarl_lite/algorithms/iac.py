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
from typing import NamedTuple

from jaxmarl_lite.algorithms import base_config, gradient_update, optimizers, ppo
from jaxmarl_lite.algorithms.gradient_update import ModelState
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, Sharing, bodies_of
from jaxmarl_lite.ops import running_statistics
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class PolicyStepConfig(
    base_config.CriticEpochsConfig,
    base_config.PolicyGradientConfig,
    base_config.SharingConfig,
    base_config.CriticConfig,
):
    """Settings of algorithms whose policy takes one gradient step on every batch."""


@base_config.config_record
class IACConfig(
    base_config.CriticInputConfig, base_config.ValueNormalizationConfig, PolicyStepConfig
):
    """Settings of independent actor-critic.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> algorithm = jml.make_algorithm("iac", env.spec, jml.IACConfig(critic_epochs=2))
        >>> algorithm.config.critic_epochs, algorithm.config.critic_input
        (2, 'local')
    """


@base_config.config_record
class CentralVConfig(base_config.CentralCriticConfig, IACConfig):
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


def make_iac(
    name: str, spec: EnvSpec, config: IACConfig, networks: Networks | None = None
) -> Algorithm:
    """Returns IAC or central-V for one environment.

    The static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `ppo.PPOState`.
    """
    bodies = bodies_of(name, networks, ("actor", "critic"), config.network_spec)
    shared = config.sharing
    actor = actor_critic.make_actor(spec, bodies.actor, shared)
    critic = actor_critic.make_critic(spec, bodies.critic, config.critic_input, shared)

    def init(key: Array, num_envs: int, config: IACConfig = config) -> ppo.PPOState:
        nets = ppo.PPONetworks(actor, critic)
        return ppo.init_state(nets, spec, key, num_envs, config, shared)

    def update(
        key: Array, learner: ppo.PPOState, batch: Rollout
    ) -> tuple[ppo.PPOState, dict[str, Array]]:
        config = learner.config
        steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
        estimate = gradient_update.reward_advantages(critic, learner, steps)
        data = gradient_update.to_policy_batch(steps)
        lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
        actor_state, info = policy_step(
            actor,
            ModelState(learner.actor_params, learner.actor_opt_state),
            PolicyGradientBatch(data, batch.initial_hidden_state, estimate.advantage),
            lr,
            config,
        )
        learner, critic_info = ppo.fit_critic(
            key, critic, learner, data, estimate, config.critic_epochs, shared
        )
        learner = learner._replace(
            actor_params=actor_state.params,
            actor_opt_state=actor_state.opt_state,
            **gradient_update.end_of_update(learner, batch),
        )
        return learner, info | critic_info | gradient_update.lr_metric(config, lr)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, actor)
    return Algorithm(
        name, config, init, actor.net.init_hidden_state, act, update, check_sizes, spec
    )


class PolicyGradientBatch(NamedTuple):
    """The data of one step of the policy on a whole rollout.

    Attributes:
        data: the rollout, ``[T, B, ...]``.
        hidden_state: the policy's hidden state at its start, ``[B, ...]``.
        advantage: ``[T, B, N]``.
    """

    data: gradient_update.PolicyBatch
    hidden_state: PyTree
    advantage: Array


def policy_gradient_loss(
    actor_params: PyTree,
    actor: actor_critic.Actor,
    batch: PolicyGradientBatch,
    entropy_coef: Array | float,
    shared: Sharing,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the function whose gradient is in the module docstring.

    Args:
        actor_params: parameters of the policy network.
        actor: the policies.
        batch: the rollout and its advantages.
        entropy_coef: weight of the entropy bonus.
        shared: whether all agents share one set of parameters, or the group of each.

    Returns:
        The loss, scalar, and the metric ``entropy``, in nats.
    """
    data, hidden_state, advantage = batch
    pi = actor.unroll(actor_params, hidden_state, data.obs, data.is_first)
    entropy = pi.entropy()
    gain = pi.log_prob(data.action) * advantage + entropy_coef * entropy
    info = {"entropy": running_statistics.masked_mean(entropy, data.obs.alive)}
    return -actor_critic.masked_agent_mean(gain, data.obs.alive, shared), info


def policy_step(
    actor: actor_critic.Actor,
    state: ModelState,
    batch: PolicyGradientBatch,
    lr: Array,
    config: PolicyStepConfig,
) -> tuple[ModelState, dict[str, Array]]:
    """Takes one gradient step of the policies on a whole rollout.

    Args:
        actor: the policies.
        state: their weights and the state of their optimizer.
        batch: the rollout and its advantages, which are standardized here if
            ``normalize_advantages`` is set.
        lr: learning rate, ``[]``.
        config: settings.

    Returns:
        The state after the step, and the metrics ``entropy``, ``policy_loss`` and
        ``policy_grad_norm``.
    """
    shared = config.sharing
    if config.normalize_advantages:
        standardized = actor_critic.standardize_advantages(
            batch.advantage, batch.data.obs.alive, shared
        )
        batch = batch._replace(advantage=standardized)

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        return policy_gradient_loss(params, actor, batch, config.entropy_coef, shared)

    step = gradient_update.gradient_step(loss, state, lr, config, per_agent=shared is not True)
    return step.state, step.info | {"policy_loss": step.loss, "policy_grad_norm": step.grad_norm}
