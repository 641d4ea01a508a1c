"""IPPO and MAPPO: proximal policy optimization with a local or a central critic.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

Both are one algorithm: the critics of IPPO (de Witt et al. 2020) receive the agent's own
observation, the critic of MAPPO (Yu et al. 2022) receives the global state. IPPO may have policy
and critic as two heads of one network (``shared_torso``),

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ) - c_V ½ E[ (V_θ - target)² ]

which saves the layers that the values would otherwise have to themselves, and is the form of
several public implementations of IPPO; the features that the values need may interfere with those
that the policy needs, and the reverse.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, gradient_update, optimizers
from jaxmarl_lite.algorithms.gradient_update import ModelState, Moments, SequenceBatch
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.networks.torsos import Networks, Sharing, bodies_of
from jaxmarl_lite.ops import running_statistics
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class PPOConfig(
    base_config.ClippedStepConfig,
    base_config.CriticInputConfig,
    base_config.ValueNormalizationConfig,
    base_config.SharingConfig,
):
    """Settings of IPPO and MAPPO."""


@base_config.config_record
class IPPOConfig(PPOConfig):
    """Settings of IPPO: PPO whose critics receive the agent's own observation.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> algorithm = jml.make_algorithm("ippo", env.spec, jml.IPPOConfig(shared_torso=True))
        >>> algorithm.name, algorithm.config.critic_input, algorithm.config.vf_coef
        ('ippo', 'local', 0.5)
    """

    shared_torso: bool = False
    """Use one network with a head for the policy and one for the values; ``lr`` steps both, not
    ``critic_lr``."""
    vf_coef: float = base_config.bounded(0.5, 0, 1e6)
    """Weight of the value loss relative to the policy loss, with a shared torso."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_unused(self, ("vf_coef",), not self.shared_torso, "without shared_torso")
        base_config.check_unused(
            self, ("critic_lr",), self.shared_torso, "with shared_torso, which steps by lr"
        )
        why = "with shared_torso, which steps by optimizer"
        base_config.check_unused(self, ("critic_optimizer",), self.shared_torso, why)
        if self.shared_torso and self.critic_input != "local":
            raise ValueError(
                f"{type(self).__name__}.critic_input is {self.critic_input!r} with a shared "
                "torso; allowed is 'local'"
            )


@base_config.config_record
class MAPPOConfig(base_config.CentralCriticConfig, PPOConfig):
    """Settings of MAPPO: PPO whose critic receives the global state.

    Example:
        >>> import dataclasses
        >>> import jaxmarl_lite as jml
        >>> config = dataclasses.replace(jml.MAPPOConfig(), clip_eps=0.1)
        >>> config.clip_eps, config.critic_input
        (0.1, 'global_state')
        >>> jml.make_algorithm("mappo", jml.make("toy/relay").spec, config).name
        'mappo'
    """


class PPOState(NamedTuple):
    """State of a PPO learner, carried from update to update.

    Attributes:
        config: the algorithm's config with its floats as arrays.
        actor_params: parameters of the policy network.
        actor_opt_state: state of the policy's optimizer.
        critic_params: parameters of the critic; () with a shared torso.
        critic_opt_state: state of the critic's optimizer; () with a shared torso.
        critic_hidden_state: the critic's hidden state at the start of the next rollout,
            ``[B, ...]``.
        obs_normalizer: running moments of observations and global states, or ().
        value_statistics: running moments of the returns, or ().
        env_steps: ``[]``, environment steps so far.
    """

    config: Any
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    value_statistics: Moments
    env_steps: Array


class PPONetworks(NamedTuple):
    """Policies and critic as separate networks.

    Attributes:
        actor: the policies.
        critic: the critic of the reward.
    """

    actor: actor_critic.Actor
    critic: actor_critic.Critic


def init_state(
    networks: PPONetworks | actor_critic.SharedActorCritic,
    spec: EnvSpec,
    key: Array,
    num_envs: int,
    config: Any,
    shared: Sharing,
) -> PPOState:
    """Returns the state of a learner before the first rollout.

    Args:
        networks: policies and critic of all agents.
        spec: the environment's sizes.
        key: random key of the weights.
        num_envs: number of environments, B.
        config: the algorithm's config, with ``normalize_values``.
        shared: whether all agents share one set of parameters, or the group of each.

    Returns:
        The state.
    """
    config = base_config.as_arrays(config)
    policy_key, critic_key = jax.random.split(key)
    actor_params = networks.actor.net.init(policy_key)
    critic_params = networks.critic.net.init(critic_key)
    optimizer = gradient_update.optimizer_of(config, per_agent=shared is not True)
    critic_optimizer = gradient_update.optimizer_of(config, "critic_optimizer", shared is not True)
    return PPOState(
        config=config,
        actor_params=actor_params,
        actor_opt_state=optimizer.init(actor_params),
        critic_params=critic_params,
        # a critic that shares the actor's network has no parameters to step
        critic_opt_state=critic_optimizer.init(critic_params) if critic_params else (),
        critic_hidden_state=networks.critic.net.init_hidden_state(num_envs),
        obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
        value_statistics=running_statistics.init_running_statistics(())
        if config.normalize_values
        else (),
        env_steps=jnp.zeros((), jnp.result_type(float)),
    )


def fit_critic(
    key: Array,
    critic: actor_critic.Critic,
    learner: PPOState,
    data: gradient_update.PolicyBatch,
    estimate: gradient_update.AdvantageEstimate,
    num_epochs: int,
    shared: Sharing = False,
) -> tuple[PPOState, dict[str, Array]]:
    """Fits the critic to a rollout, after the policies' step.

    Args:
        key: random key of the minibatches.
        critic: the critic of the reward.
        learner: the state of the learner.
        data: the rollout, ``[T, B, ...]``.
        estimate: advantages and targets.
        num_epochs: number of passes over the rollout.
        shared: whether all agents share one set of parameters, or the group of each.

    Returns:
        The learner with its fitted critic, and metrics.
    """
    config = learner.config
    fit = gradient_update.CriticFit(
        critic,
        ModelState(learner.critic_params, learner.critic_opt_state),
        learner.critic_hidden_state,
        estimate.target,
        optimizers.learning_rate(config.critic_lr, learner.env_steps, config.lr_anneal_steps),
    )
    (state,), ((loss, grad_norm),) = gradient_update.fit_critics(
        key, (fit,), data, config, num_epochs, shared
    )
    return learner._replace(
        critic_params=state.params,
        critic_opt_state=state.opt_state,
        critic_hidden_state=estimate.hidden_state,
        value_statistics=estimate.value_statistics,
    ), {
        "explained_variance": estimate.explained_variance,
        "value_loss": loss,
        "critic_grad_norm": grad_norm,
    }


def make_ppo(
    name: str, spec: EnvSpec, config: PPOConfig, networks: Networks | None = None
) -> Algorithm:
    """Returns IPPO or MAPPO for one environment; static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `PPOState`.
    """
    has_shared_torso = isinstance(config, IPPOConfig) and config.shared_torso
    roles = ("actor",) if has_shared_torso else ("actor", "critic")
    bodies = bodies_of(name, networks, roles, config.network_spec)
    shared = config.sharing
    if has_shared_torso:
        nets = actor_critic.shared_actor_critic(spec, bodies.actor, shared)
        step = functools.partial(_shared_torso_step, nets)
    else:
        nets = PPONetworks(
            actor_critic.make_actor(spec, bodies.actor, shared),
            actor_critic.make_critic(spec, bodies.critic, config.critic_input, shared),
        )
        step = functools.partial(_step, nets)

    def init(key: Array, num_envs: int, config: PPOConfig = config) -> PPOState:
        return init_state(nets, spec, key, num_envs, config, shared)

    def update(key: Array, learner: PPOState, batch: Rollout) -> tuple[PPOState, dict[str, Array]]:
        config = learner.config
        steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
        evaluated = learner
        if not isinstance(nets, PPONetworks):
            # The critic has neither parameters nor a hidden state of its own: it reads the actor's.
            evaluated = learner._replace(
                critic_params=learner.actor_params, critic_hidden_state=batch.initial_hidden_state
            )
        estimate = gradient_update.reward_advantages(nets.critic, evaluated, steps)
        data = SequenceBatch(
            (gradient_update.to_policy_batch(steps), estimate.advantage, estimate.target),
            (batch.initial_hidden_state, learner.critic_hidden_state),
        )
        lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
        info = {"explained_variance": estimate.explained_variance}
        info |= gradient_update.lr_metric(config, lr)
        learner, step_info = gradient_update.run_epochs(
            key, learner, data, step, config.num_epochs, config.num_minibatches
        )
        if isinstance(nets, PPONetworks):
            learner = learner._replace(critic_hidden_state=estimate.hidden_state)
        return learner._replace(
            value_statistics=estimate.value_statistics,
            **gradient_update.end_of_update(learner, batch),
        ), info | step_info

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _step(
    networks: PPONetworks, learner: PPOState, batch: SequenceBatch
) -> tuple[PPOState, dict[str, Array]]:
    """Takes one gradient step of the policy and one of the critic on a minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    hidden_state, critic_hidden_state = batch.initial_states
    shared = config.sharing
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared)

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        pi = networks.actor.unroll(params, hidden_state, data.obs, data.is_first)
        return gradient_update.clipped_policy_loss(pi, data, advantage, config, shared)

    lr, critic_lr = (
        optimizers.learning_rate(rate, learner.env_steps, config.lr_anneal_steps)
        for rate in (config.lr, config.critic_lr)
    )
    actor = gradient_update.gradient_step(
        loss,
        ModelState(learner.actor_params, learner.actor_opt_state),
        lr,
        config,
        shared is not True,
    )
    critic = gradient_update.critic_step(
        networks.critic,
        ModelState(learner.critic_params, learner.critic_opt_state),
        SequenceBatch((data, target), critic_hidden_state),
        critic_lr,
        config,
        shared,
    )
    return learner._replace(
        actor_params=actor.state.params,
        actor_opt_state=actor.state.opt_state,
        critic_params=critic.state.params,
        critic_opt_state=critic.state.opt_state,
    ), actor.info | {
        "policy_loss": actor.loss,
        "policy_grad_norm": actor.grad_norm,
        "value_loss": critic.loss,
        "critic_grad_norm": critic.grad_norm,
    }


def _shared_torso_step(
    networks: actor_critic.SharedActorCritic, learner: PPOState, batch: SequenceBatch
) -> tuple[PPOState, dict[str, Array]]:
    """Takes one gradient step of both heads on a minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    hidden_state, _ = batch.initial_states
    shared = config.sharing
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared)

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        return shared_torso_loss(
            params, networks, SequenceBatch((data, advantage, target), hidden_state), config
        )

    lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
    actor = gradient_update.gradient_step(
        loss,
        ModelState(learner.actor_params, learner.actor_opt_state),
        lr,
        config,
        shared is not True,
    )
    return learner._replace(
        actor_params=actor.state.params, actor_opt_state=actor.state.opt_state
    ), actor.info | {"policy_grad_norm": actor.grad_norm}


def shared_torso_loss(
    params: PyTree,
    networks: actor_critic.SharedActorCritic,
    batch: SequenceBatch,
    config: IPPOConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the second objective in the module docstring.

    Args:
        params: parameters of the shared layers and of both heads.
        networks: the network with its two heads.
        batch: a minibatch whose steps are a `gradient_update.PolicyBatch`, the advantages and the
            targets of the values, ``[T, b, N]``, and whose initial state is the network's.
        config: settings.

    Returns:
        The loss, scalar, and the metrics of `gradient_update.clipped_policy_loss` with
        ``policy_loss`` and ``value_loss``.
    """
    data, advantage, target = batch.steps
    (head, value), _ = networks.net.unroll(
        params, batch.initial_states, data.obs.agents_view, data.is_first
    )
    pi = distributions.make_distribution(head, data.obs, networks.actor.bounds)
    shared = config.sharing
    policy_loss, info = gradient_update.clipped_policy_loss(pi, data, advantage, config, shared)
    value_loss = gradient_update.value_loss(networks.critic.to_values(value), target, shared)
    return policy_loss + config.vf_coef * value_loss, info | {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
    }
