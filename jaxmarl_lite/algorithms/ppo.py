"""IPPO and MAPPO: proximal policy optimization with a local or a central critic.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

Both are one algorithm: the critics of IPPO (de Witt et al. 2020) receive the agent's own
observation, the critic of MAPPO (Yu et al. 2022) receives the global state. A minibatch holds whole
sequences of a subset of the environments, for feed-forward networks as well, so that both kinds of
network share one code and LIIR can differentiate through whole returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import advantages, base_config, minibatch, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.ops import jax_types, running_statistics, surrogates, tree_math
from jaxmarl_lite.types import (
    Algorithm,
    Array,
    EnvSpec,
    Number,
    Observation,
    PyTree,
    Rollout,
    Transition,
)


@base_config.config_record
class ActorCriticConfig(settings.AgentConfig):
    """Settings of every algorithm whose policy takes PPO's clipped step."""

    clip_eps: float = 0.2
    """Distance of the probability ratio from 1 beyond which its gain is cut off."""
    num_epochs: int = 4
    """Passes over each batch."""
    critic_input: Literal["local", "global_state"] = "local"
    """Input of the critic: the agent's own observation (IPPO) or the global state (MAPPO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(self, clip_eps=(1e-6, 1e6))
        one_step = self.num_epochs == 1 and self.num_minibatches == 1
        base_config.check_unused(
            self, ("clip_eps",), one_step, "with 1 epoch of 1 minibatch, whose only ratio is 1"
        )


@base_config.config_record
class PPOConfig(ActorCriticConfig):
    """Settings of IPPO and MAPPO."""

    normalize_values: bool = False
    """Let the critic predict returns standardized by their running moments (Yu et al. 2022)."""


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
    vf_coef: float = 0.5
    """Weight of the value loss relative to the policy loss, with a shared torso."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(self, vf_coef=(0, 1e6))
        base_config.check_unused(self, ("vf_coef",), not self.shared_torso, "without shared_torso")
        base_config.check_unused(
            self, ("critic_lr",), self.shared_torso, "with shared_torso, which steps by lr"
        )
        if self.shared_torso and self.critic_input != "local":
            raise ValueError(
                f"{type(self).__name__}.critic_input is {self.critic_input!r} with a shared "
                "torso; allowed is 'local'"
            )


@base_config.config_record
class MAPPOConfig(PPOConfig):
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

    critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the critic: the agent's own observation (IPPO) or the global state (MAPPO)."""


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
        costs: `constraints.CostState` of a constrained algorithm, else ().
    """

    config: Any
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    value_statistics: advantages.Moments
    env_steps: Array
    costs: Any = ()


class PolicyBatch(NamedTuple):
    """The part of a minibatch that the policy step reads, ``[T, b, ...]`` of b environments.

    Attributes:
        obs: observations, with leading axes ``[T, b]``.
        action: ``[T, b, N]`` int, or ``[T, b, N, A]`` float.
        log_prob: ``[T, b, N]``, log-probability under the policy that acted, in nats.
        is_first: ``[T, b]`` bool, whether the step begins an episode.
    """

    obs: Observation
    action: Array
    log_prob: Array
    is_first: Array


def to_policy_batch(steps: Transition) -> PolicyBatch:
    """Returns the part of a rollout that the policy step reads.

    Args:
        steps: transitions ``[T, B, ...]``.

    Returns:
        The batch, ``[T, B, ...]``.
    """
    return PolicyBatch(
        steps.obs, steps.action, steps.log_prob, actor_critic.is_first_step(steps.last)
    )


def policy_loss(
    actor_params: PyTree,
    actor: actor_critic.Actor,
    data: PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: ActorCriticConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the clipped objective in the module docstring.

    Args:
        actor_params: parameters of the policy network.
        actor: the policies.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the policy's hidden state at the start of the minibatch, ``[b, ...]``.
        advantage: ``[T, b, N]``. The loss may be differentiated with respect to it as well.
        config: settings; it reads ``clip_eps``, ``entropy_coef`` and ``parameter_sharing``.

    Returns:
        The loss, scalar, and a dict of scalar metrics: ``entropy`` (nats), ``approx_kl`` (nats) and
        ``clip_fraction`` (0 to 1), each a mean over the steps of alive agents.
    """
    return surrogate_loss(
        actor.unroll(actor_params, hidden_state, data.obs, data.is_first), data, advantage, config
    )


def surrogate_loss(
    pi: Distribution, data: PolicyBatch, advantage: Array, config: ActorCriticConfig
) -> tuple[Array, dict[str, Array]]:
    """Computes `policy_loss` from the action distributions of the new policy.

    Args:
        pi: the distributions, with batch axes ``[T, b, N]``.
        data: a minibatch ``[T, b, ...]``.
        advantage: ``[T, b, N]``.
        config: settings, as for `policy_loss`.

    Returns:
        The loss, scalar, and the metrics of `policy_loss`.
    """
    log_prob = pi.log_prob(data.action)
    ratio = surrogates.importance_ratio(log_prob, data.log_prob)
    alive, entropy = data.obs.alive, pi.entropy()
    gain = (
        surrogates.clipped_surrogate(ratio, advantage, config.clip_eps)
        + config.entropy_coef * entropy
    )
    info = {
        "entropy": running_statistics.masked_mean(entropy, alive),
        "approx_kl": running_statistics.masked_mean(
            surrogates.approximate_kl(log_prob - data.log_prob), alive
        ),
        "clip_fraction": running_statistics.masked_mean(
            (jnp.abs(ratio - 1.0) > config.clip_eps).astype(ratio.dtype), alive
        ),
    }
    return -actor_critic.masked_agent_mean(gain, alive, config.parameter_sharing), info


def value_loss(
    critic_params: PyTree,
    critic: actor_critic.Critic,
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
    shared: bool,
) -> Array:
    """Computes half the mean squared error of a critic against its targets.

    Args:
        critic_params: parameters of the critic.
        critic: the critic of the reward, or of K costs.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the critic's hidden state at the start of the minibatch, ``[b, ...]``.
        target: ``[T, b, N]``, or ``[T, b, N, K]`` of costs, in the critic's unit.
        shared: whether all agents share one set of parameters.

    Returns:
        The loss, scalar; see `value_loss_from_values`.
    """
    value, _ = critic.unroll(critic_params, hidden_state, data.obs, data.is_first)
    return value_loss_from_values(value, target, shared)


def value_loss_from_values(value: Array, target: Array, shared: bool) -> Array:
    """Computes `value_loss` from values that the critic has predicted.

    Agents that are not alive count: a team is paid after some of its agents have died, and the
    returns of an agent's last steps alive are estimated from the values of its later steps.

    Args:
        value: ``[T, b, N]``, or ``[T, b, N, K]`` of costs.
        target: the shape and the unit of ``value``.
        shared: whether all agents share one set of parameters. If not, the agents' losses are
            added, so that the gradient of one does not depend on the number of agents.

    Returns:
        The loss, scalar.
    """
    error = (value - target) ** 2
    error = error.mean(tuple(range(3, error.ndim)))
    return 0.5 * actor_critic.masked_agent_mean(error, jnp.ones_like(error), shared)


class PPONetworks(NamedTuple):
    """PPO's networks, built for the sizes of one environment.

    Attributes:
        actor: the policies.
        critic: the critic of the reward.
    """

    actor: actor_critic.Actor
    critic: actor_critic.Critic


class HasCritic(Protocol):
    """A record of networks with a critic of the reward."""

    @property
    def critic(self) -> actor_critic.Critic:
        """The critic of the reward."""
        ...


def optimizer_of(config: settings.CriticConfig) -> minibatch.Optimizer:
    """Returns the optimizer of every network.

    Args:
        config: settings; without ``parameter_sharing`` each agent's gradient is clipped by its own
            norm.

    Returns:
        The optimizer.
    """
    return minibatch.make_optimizer(
        config.optimizer, config.eps_root, per_agent=not config.parameter_sharing
    )


UpdateFn = Callable[[Any, Array, PPOState, Rollout], tuple[PPOState, dict[str, Array]]]
"""Signature ``(networks, key, learner, batch) -> (learner, metrics)`` of one update."""


def make_ppo(
    name: str,
    spec: EnvSpec,
    config: Any,
    update_fn: UpdateFn | None = None,
    networks: PPONetworks | actor_critic.SharedActorCritic | None = None,
) -> Algorithm:
    """Returns IPPO or MAPPO, or an algorithm with the same state, for one environment.

    The static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: the algorithm's config, such as a `PPOConfig`.
        update_fn: the update on a batch; PPO's by default.
        networks: a record with the fields of `PPONetworks`; by default policy and critic are
            separate networks.

    Returns:
        The algorithm, whose learner's state is a `PPOState`.
    """
    update_fn = cast(UpdateFn, _update) if update_fn is None else update_fn
    networks = networks or PPONetworks(
        actor_critic.make_actor(spec, config.network_spec, config.parameter_sharing),
        actor_critic.make_critic(
            spec, config.network_spec, config.critic_input, config.parameter_sharing
        ),
    )

    def init(key: Array, num_envs: int, config: Any = config) -> PPOState:
        config = base_config.as_arrays(config)
        policy_key, critic_key = jax.random.split(key)
        actor_params = networks.actor.net.init(policy_key)
        critic_params = networks.critic.net.init(critic_key)
        return PPOState(
            config=config,
            actor_params=actor_params,
            actor_opt_state=optimizer_of(config).init(actor_params),
            critic_params=critic_params,
            # a critic that shares the actor's network has no parameters to step
            critic_opt_state=optimizer_of(config).init(critic_params) if critic_params else (),
            critic_hidden_state=networks.critic.net.init_hidden_state(num_envs),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            value_statistics=running_statistics.init_running_statistics(())
            if config.normalize_values
            else (),
            env_steps=jnp.zeros((), jnp.result_type(float)),
        )

    def act(
        learner: PPOState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return networks.actor.act(
            learner.actor_params,
            key,
            actor_critic.normalize_obs(learner.obs_normalizer, obs),
            hidden_state,
            greedy,
        )

    def update(key: Array, learner: PPOState, batch: Rollout) -> tuple[PPOState, dict[str, Array]]:
        return update_fn(networks, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        minibatch.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(
        name, config, init, networks.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def estimate(
    networks: HasCritic, learner: PPOState, steps: Transition
) -> tuple[PPOState, advantages.AdvantageEstimate, dict[str, Array]]:
    """Computes advantages and targets by the critic, and updates the moments of the returns.

    Args:
        networks: the networks; it reads ``critic`` only.
        learner: the state of the learner.
        steps: transitions ``[T, B, ...]`` with normalized observations.

    Returns:
        The learner with the new ``value_statistics``, the advantages and targets ``[T, B, N]``, and
        the metric ``explained_variance``.
    """
    config = learner.config
    estimates, value_statistics, explained_variance = advantages.estimate_advantages(
        networks.critic,
        learner.critic_params,
        learner.critic_hidden_state,
        learner.value_statistics,
        steps,
        steps.reward,
        config.gamma,
        config.gae_lambda,
    )
    learner = learner._replace(value_statistics=value_statistics)
    return learner, estimates, {"explained_variance": explained_variance}


def _update(
    networks: PPONetworks, key: Array, learner: PPOState, batch: Rollout
) -> tuple[PPOState, dict[str, Array]]:
    """Learns from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    learner, estimates, info = estimate(networks, learner, steps)
    data = minibatch.SequenceBatch(
        (to_policy_batch(steps), estimates.advantage, estimates.target),
        (batch.initial_hidden_state, learner.critic_hidden_state),
    )
    learner, step_info = minibatch.run_epochs(
        key,
        learner,
        data,
        functools.partial(_step, networks),
        config.num_epochs,
        config.num_minibatches,
    )
    # The moments of observations change last: the whole update reads the moments that acted.
    return learner._replace(
        critic_hidden_state=estimates.hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | step_info | minibatch.learning_rate_metric(learner.config, learner.env_steps)


def _step(
    networks: PPONetworks, learner: PPOState, batch: minibatch.SequenceBatch
) -> tuple[PPOState, dict[str, Array]]:
    """Takes one gradient step of the policy and one of the critic on a minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    hidden_state, critic_hidden_state = batch.initial_states
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (loss, info), grads = jax_types.value_and_grad(policy_loss, has_aux=True)(
        learner.actor_params, networks.actor, data, hidden_state, advantage, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    actor_params, actor_opt_state = optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    learner, critic_info = update_critic(
        networks.critic,
        learner._replace(actor_params=actor_params, actor_opt_state=actor_opt_state),
        data,
        critic_hidden_state,
        target,
    )
    info |= {"policy_loss": loss, "policy_grad_norm": tree_math.norm(grads)}
    return learner, info | critic_info


def update_critic(
    critic: actor_critic.Critic,
    learner: PPOState,
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
) -> tuple[PPOState, dict[str, Array]]:
    """Takes one gradient step of a learner's critic on a minibatch.

    Args:
        critic: the critic of the reward.
        learner: the state of the learner.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the critic's hidden state at the start of the minibatch, ``[b, ...]``.
        target: ``[T, b, N]``, in the critic's unit.

    Returns:
        The learner after the step, and the metrics ``value_loss`` and ``critic_grad_norm``.
    """
    config, critic_state = learner.config, (learner.critic_params, learner.critic_opt_state)
    lr = minibatch.linear_schedule(config.critic_lr, learner.env_steps, config.lr_anneal_steps)
    (critic_params, critic_opt_state), loss, grad_norm = value_gradient_step(
        critic, config, lr, critic_state, data, hidden_state, target
    )
    info = {"value_loss": loss, "critic_grad_norm": grad_norm}
    return learner._replace(critic_params=critic_params, critic_opt_state=critic_opt_state), info


def value_gradient_step(
    critic: actor_critic.Critic,
    config: settings.CriticConfig,
    lr: Number,
    critic_state: tuple[PyTree, PyTree],
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
) -> tuple[tuple[PyTree, PyTree], Array, Array]:
    """Takes one gradient step of a critic on `value_loss`.

    Args:
        critic: the critic of the reward, or of K costs.
        config: settings of the optimizer.
        lr: learning rate, 0 or more.
        critic_state: the critic's parameters and the state of its optimizer.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the critic's hidden state at the start of the minibatch, ``[b, ...]``.
        target: ``[T, b, N]``, or ``[T, b, N, K]`` of costs, in the critic's unit.

    Returns:
        The parameters and the optimizer's state after the step, the loss at the old parameters, and
        the norm of the gradient before clipping; the last two are scalars.
    """
    critic_params, opt_state = critic_state
    loss, grads = jax_types.value_and_grad(value_loss)(
        critic_params, critic, data, hidden_state, target, config.parameter_sharing
    )
    return (
        optimizer_of(config).step(critic_params, opt_state, grads, lr, config.max_grad_norm),
        loss,
        tree_math.norm(grads),
    )
