"""IPPO and MAPPO: proximal policy optimisation of every agent, with a local or a central critic.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

One algorithm: IPPO (de Witt et al. 2020) has critics that see the agent's own view, MAPPO (Yu et
al. 2022) critics that see the state. Minibatches are whole sequences of some of the worlds, for
memoryless networks as well, so that both kinds of network share one code and LIIR can differentiate
through whole returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import advantages, base_config, minibatch, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.ops import running_statistics, surrogates, tree_math
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
    """Settings that every algorithm with PPO's policy step has."""

    clip_eps: float = 0.2
    """How far the probability ratio may leave 1 before its gain is cut off."""
    num_epochs: int = 4
    """Passes over each batch."""
    critic_input: Literal["local", "global_state"] = "local"
    """What the critic sees: the agent's own view (IPPO) or the state (MAPPO)."""

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
    """Settings of IPPO: PPO whose critics see the agent's own view."""

    shared_torso: bool = False
    """One network with a head for the policy and one for the values, stepped at once by ``lr``, not
    ``critic_lr``."""
    vf_coef: float = 0.5
    """Weight of the values' loss beside the policy's, with a shared torso."""

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
    """Settings of MAPPO: PPO whose critic sees the state."""

    critic_input: Literal["local", "global_state"] = "global_state"
    """What the critic sees: the agent's own view (IPPO) or the state (MAPPO)."""


class PPOState(NamedTuple):
    """What PPO carries from update to update."""

    config: Any
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    critic_hidden_state: PyTree  # the critic's, [B, ...]
    obs_normalizer: Any  # moments of views and states, or ()
    value_statistics: Any  # moments of returns, or ()
    env_steps: Array  # [] environment steps
    costs: Any = ()  # what constrained algorithms carry for their limits (`costs.CostState`)


class PolicyBatch(NamedTuple):
    """What the policy step needs of a minibatch, ``[T, b, ...]``."""

    obs: Observation
    action: Array
    log_prob: Array
    is_first: Array


def to_policy_batch(steps: Transition) -> PolicyBatch:
    """Pick it from a rollout."""
    return PolicyBatch(
        steps.obs, steps.action, steps.log_prob, actor_critic.is_first_step(steps.last)
    )


def policy_loss(
    theta: PyTree,
    actor: actor_critic.Actor,
    data: PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: ActorCriticConfig,
) -> tuple[Array, dict[str, Array]]:
    """Minus the objective at the head of this file, and what one may look at.

    Args:
        theta: the policy's weights.
        data, hidden_state: a minibatch and the policy's memory at its start.
        advantage: ``[T, b, N]``. The loss may be differentiated with respect to it as well.
    """
    return surrogate_loss(
        actor.unroll(theta, hidden_state, data.obs, data.is_first), data, advantage, config
    )


def surrogate_loss(
    pi: Distribution, data: PolicyBatch, advantage: Array, config: ActorCriticConfig
) -> tuple[Array, dict[str, Array]]:
    """`policy_loss` of the distributions that the policy has come to."""
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
    phi: PyTree,
    critic: actor_critic.Critic,
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
    shared: bool,
) -> Array:
    """Half the mean squared error of a critic against its targets ``[T, b, N]``, or ``[T, b, N,
    K]`` of costs.
    """
    value, _ = critic.unroll(phi, hidden_state, data.obs, data.is_first)
    return value_loss_from_values(value, target, shared)


def value_loss_from_values(value: Array, target: Array, shared: bool) -> Array:
    """`value_loss` of the values that the critic has come to.

    Agents out of play count: a team is paid after some have fallen, and their values then are what
    the returns of their last steps in play are estimated from.
    """
    error = (value - target) ** 2
    error = error.mean(tuple(range(3, error.ndim)))
    return 0.5 * actor_critic.masked_agent_mean(error, jnp.ones_like(error), shared)


class PPONetworks(NamedTuple):
    """PPO's networks, for an environment's sizes."""

    actor: actor_critic.Actor
    critic: actor_critic.Critic


def optimizer_of(config: settings.CriticConfig) -> minibatch.Optimizer:
    """The optimizer of every network."""
    return minibatch.make_optimizer(
        config.optimizer, config.eps_root, per_agent=not config.parameter_sharing
    )


UpdateFn = Callable[[Any, Array, PPOState, Rollout], tuple[PPOState, dict[str, Array]]]


def make_ppo(
    name: str, spec: EnvSpec, config: Any, update_fn: UpdateFn | None = None, networks: Any = None
) -> Algorithm:
    """IPPO or MAPPO for an environment of these sizes; the config's static fields decide the
    networks.

    Args:
        name, spec, config: of the algorithm.
        update_fn: what is learned from a batch, of an algorithm with the same state (PPO's by
            default).
        networks: with the names of `PPONetworks` (by default policy and critic apart).
    """
    update_fn = _update if update_fn is None else update_fn
    networks = networks or PPONetworks(
        actor_critic.make_actor(spec, config.network_spec, config.parameter_sharing),
        actor_critic.make_critic(
            spec, config.network_spec, config.critic_input, config.parameter_sharing
        ),
    )

    def init(key: Array, num_envs: int, config: Any = config) -> PPOState:
        config = base_config.as_arrays(config)
        policy_key, critic_key = jax.random.split(key)
        theta, phi = networks.actor.net.init(policy_key), networks.critic.net.init(critic_key)
        return PPOState(
            config=config,
            actor_params=theta,
            actor_opt_state=optimizer_of(config).init(theta),
            critic_params=phi,
            critic_opt_state=optimizer_of(config).init(phi) if phi else (),
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
    of: PPONetworks, learner: Any, steps: Transition
) -> tuple[Any, advantages.AdvantageEstimate, dict[str, Array]]:
    """Advantages and targets by the critic, and the learner with its moments of returns widened.

    The learner is a `PPOState`, or has its ``config``, ``critic_params``, ``critic_hidden_state``
    and ``value_statistics``.
    """
    config = learner.config
    found, moments, explained = advantages.estimate_advantages(
        of.critic,
        learner.critic_params,
        learner.critic_hidden_state,
        learner.value_statistics,
        steps,
        steps.reward,
        config.gamma,
        config.gae_lambda,
    )
    return learner._replace(value_statistics=moments), found, {"explained_variance": explained}


def _update(
    of: PPONetworks, key: Array, learner: PPOState, batch: Rollout
) -> tuple[PPOState, dict[str, Array]]:
    """Learn from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    learner, found, info = estimate(of, learner, steps)
    data = minibatch.SequenceBatch(
        (to_policy_batch(steps), found.advantage, found.target),
        (batch.initial_hidden_state, learner.critic_hidden_state),
    )
    learner, fit = minibatch.run_epochs(
        key, learner, data, functools.partial(_step, of), config.num_epochs, config.num_minibatches
    )
    return learner._replace(
        critic_hidden_state=found.hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | fit | minibatch.learning_rate_metric(learner.config, learner.env_steps)


def _step(
    of: PPONetworks, learner: PPOState, batch: minibatch.SequenceBatch
) -> tuple[PPOState, dict[str, Array]]:
    """Policy and critic, one gradient step each, on one minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    hidden_state, critic_memory = batch.initial_states
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (loss, info), grads = jax.value_and_grad(policy_loss, has_aux=True)(
        learner.actor_params, of.actor, data, hidden_state, advantage, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    policy, policy_opt = optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    learner, critic_info = update_critic(
        of.critic,
        learner._replace(actor_params=policy, actor_opt_state=policy_opt),
        data,
        critic_memory,
        target,
    )
    info |= {"policy_loss": loss, "policy_grad_norm": tree_math.norm(grads)}
    return learner, info | critic_info


def update_critic(
    critic: actor_critic.Critic,
    learner: Any,
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
) -> tuple[Any, dict[str, Array]]:
    """One gradient step of a learner's critic on a minibatch."""
    config, weights = learner.config, (learner.critic_params, learner.critic_opt_state)
    lr = minibatch.linear_schedule(config.critic_lr, learner.env_steps, config.lr_anneal_steps)
    (phi, opt), error, length = value_gradient_step(
        critic, config, lr, weights, data, hidden_state, target
    )
    info = {"value_loss": error, "critic_grad_norm": length}
    return learner._replace(critic_params=phi, critic_opt_state=opt), info


def value_gradient_step(
    critic: actor_critic.Critic,
    config: settings.CriticConfig,
    lr: Number,
    weights: tuple[PyTree, PyTree],
    data: PolicyBatch,
    hidden_state: PyTree,
    target: Array,
) -> tuple[tuple[PyTree, PyTree], Array, Array]:
    """A critic's weights and optimizer after a gradient step, its loss before, and the gradient's
    length.
    """
    phi, opt = weights
    error, grads = jax.value_and_grad(value_loss)(
        phi, critic, data, hidden_state, target, config.parameter_sharing
    )
    return (
        optimizer_of(config).step(phi, opt, grads, lr, config.max_grad_norm),
        error,
        tree_math.norm(grads),
    )
