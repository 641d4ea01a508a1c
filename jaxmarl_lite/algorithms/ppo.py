"""IPPO and MAPPO: proximal policy optimisation of every agent, with a local or a central critic.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

One algorithm: IPPO (de Witt et al. 2020) has critics that see the agent's own view, MAPPO (Yu et al. 2022)
critics that see the state. Minibatches are whole sequences of some of the worlds, for memoryless networks
as well, so that both kinds of network share one code and LIIR can differentiate through whole returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, fitting, models, settings, values
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import surrogates, trees
from jaxmarl_lite.nets.distributions import Distribution
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Number, Observation, PyTree, Transition


@configs.config_record
class ActorCriticConfig(settings.AgentConfig):
    """Settings that every algorithm with PPO's policy step has."""

    clip: float = 0.2
    """How far the probability ratio may leave 1 before its gain is cut off."""
    epochs: int = 4
    """Passes over each batch."""
    critic_view: Literal["own", "state"] = "own"
    """What the critic sees: the agent's own view (IPPO) or the state (MAPPO)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.check_range(self, clip=(1e-6, 1e6))
        one_step = self.epochs == 1 and self.num_minibatches == 1
        configs.check_unused(self, ("clip",), one_step, "with 1 epoch of 1 minibatch, whose only ratio is 1")


@configs.config_record
class PPOConfig(ActorCriticConfig):
    """Settings of IPPO and MAPPO."""

    normalise_value: bool = False
    """Let the critic predict returns standardised by their running moments (Yu et al. 2022)."""


@configs.config_record
class IPPOConfig(PPOConfig):
    """Settings of IPPO: PPO whose critics see the agent's own view."""

    shared_trunk: bool = False
    """One network with a head for the policy and one for the values, stepped at once by ``lr``, not ``critic_lr``."""
    value_coef: float = 0.5
    """Weight of the values' loss beside the policy's, with a shared trunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.check_range(self, value_coef=(0, 1e6))
        configs.check_unused(self, ("value_coef",), not self.shared_trunk, "without shared_trunk")
        configs.check_unused(self, ("critic_lr",), self.shared_trunk, "with shared_trunk, which steps by lr")
        if self.shared_trunk and self.critic_view != "own":
            raise ValueError(
                f"{type(self).__name__}.critic_view is {self.critic_view!r} with a shared trunk; allowed is 'own'"
            )


@configs.config_record
class MAPPOConfig(PPOConfig):
    """Settings of MAPPO: PPO whose critic sees the state."""

    critic_view: Literal["own", "state"] = "state"
    """What the critic sees: the agent's own view (IPPO) or the state (MAPPO)."""


class PPOState(NamedTuple):
    """What PPO carries from update to update."""

    config: Any
    policy: PyTree
    policy_opt: PyTree
    critic: PyTree
    critic_opt: PyTree
    memory: PyTree  # the critic's, [B, ...]
    sight: Any  # moments of views and states, or ()
    value_moments: Any  # moments of returns, or ()
    seen: Array  # [] environment steps
    costs: Any = ()  # what constrained algorithms carry for their limits (`costs.CostState`)


class PolicyData(NamedTuple):
    """What the policy step needs of a minibatch, ``[T, b, ...]``."""

    obs: Observation
    action: Array
    log_prob: Array
    first: Array


def policy_data(steps: Transition) -> PolicyData:
    """Pick it from a rollout."""
    return PolicyData(steps.obs, steps.action, steps.log_prob, models.episode_starts(steps.last))


def policy_loss(
    theta: PyTree, actor: models.Actor, data: PolicyData, memory: PyTree, advantage: Array, config: ActorCriticConfig
) -> tuple[Array, dict[str, Array]]:
    """Minus the objective at the head of this file, and what one may look at.

    Args:
        theta: the policy's weights.
        data, memory: a minibatch and the policy's memory at its start.
        advantage: ``[T, b, N]``. The loss may be differentiated with respect to it as well.
    """
    return surrogate_loss(actor.unroll(theta, memory, data.obs, data.first), data, advantage, config)


def surrogate_loss(
    pi: Distribution, data: PolicyData, advantage: Array, config: ActorCriticConfig
) -> tuple[Array, dict[str, Array]]:
    """`policy_loss` of the distributions that the policy has come to."""
    log_prob = pi.log_prob(data.action)
    ratio = surrogates.importance_ratio(log_prob, data.log_prob)
    alive, entropy = data.obs.alive, pi.entropy()
    gain = surrogates.clipped_surrogate(ratio, advantage, config.clip) + config.entropy_coef * entropy
    info = {
        "entropy": moments_of.masked_mean(entropy, alive),
        "approx_kl": moments_of.masked_mean(surrogates.approximate_kl(log_prob - data.log_prob), alive),
        "clip_fraction": moments_of.masked_mean((jnp.abs(ratio - 1.0) > config.clip).astype(ratio.dtype), alive),
    }
    return -models.agent_mean(gain, alive, config.share_weights), info


def value_loss(
    phi: PyTree, critic: models.Critic, data: PolicyData, memory: PyTree, target: Array, shared: bool
) -> Array:
    """Half the mean squared error of a critic against its targets ``[T, b, N]``, or ``[T, b, N, K]`` of costs."""
    value, _ = critic.unroll(phi, memory, data.obs, data.first)
    return squared_error(value, target, shared)


def squared_error(value: Array, target: Array, shared: bool) -> Array:
    """`value_loss` of the values that the critic has come to.

    Agents out of play count: a team is paid after some have fallen, and their values then are what the returns of their
    last steps in play are estimated from.
    """
    error = (value - target) ** 2
    error = error.mean(tuple(range(3, error.ndim)))
    return 0.5 * models.agent_mean(error, jnp.ones_like(error), shared)


class Parts(NamedTuple):
    """PPO's networks, for an environment's sizes."""

    actor: models.Actor
    critic: models.Critic


def rule(config: settings.CriticConfig) -> fitting.Optimiser:
    """The optimiser of every network."""
    return fitting.optimiser(config.optimiser, config.eps_root, per_agent=not config.share_weights)


Update = Callable[[Any, Array, PPOState, Batch], tuple[PPOState, dict[str, Array]]]


def make(name: str, spec: EnvSpec, config: Any, learn: Update | None = None, of: Any = None) -> Algorithm:
    """IPPO or MAPPO for an environment of these sizes; the config's static fields decide the networks.

    Args:
        name, spec, config: of the algorithm.
        learn: what is learned from a batch, of an algorithm with the same state (PPO's by default).
        of: networks with the names of `Parts` (by default policy and critic apart).
    """
    learn = _update if learn is None else learn
    of = of or Parts(
        models.actor(spec, config.form, config.share_weights),
        models.critic(spec, config.form, config.critic_view, config.share_weights),
    )

    def init(key: Array, num_envs: int, config: Any = config) -> PPOState:
        config = configs.as_arrays(config)
        policy_key, critic_key = jax.random.split(key)
        theta, phi = of.actor.net.init(policy_key), of.critic.net.init(critic_key)
        return PPOState(
            config=config,
            policy=theta,
            policy_opt=rule(config).init(theta),
            critic=phi,
            critic_opt=rule(config).init(phi) if phi else (),
            memory=of.critic.net.initial_memory(num_envs),
            sight=models.initial_sight(spec, config.normalise_view),
            value_moments=moments_of.initial_moments(()) if config.normalise_value else (),
            seen=jnp.zeros((), jnp.result_type(float)),
        )

    def act(
        learner: PPOState, key: Array, obs: Observation, memory: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return of.actor.act(learner.policy, key, models.through(learner.sight, obs), memory, greedy)

    def update(key: Array, learner: PPOState, batch: Batch) -> tuple[PPOState, dict[str, Array]]:
        return learn(of, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        fitting.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(name, config, init, of.actor.net.initial_memory, act, update, check_sizes, spec)


def estimate(of: Parts, learner: Any, steps: Transition) -> tuple[Any, values.Estimate, dict[str, Array]]:
    """Advantages and targets by the critic, and the learner with its moments of returns widened.

    The learner is a `PPOState`, or has its ``config``, ``critic``, ``memory`` and ``value_moments``.
    """
    config = learner.config
    found, moments, explained = values.estimate(
        of.critic, learner.critic, learner.memory, learner.value_moments, steps, steps.reward, config.gamma,
        config.gae_lambda,
    )  # fmt: skip
    return learner._replace(value_moments=moments), found, {"explained_variance": explained}


def _update(of: Parts, key: Array, learner: PPOState, batch: Batch) -> tuple[PPOState, dict[str, Array]]:
    """Learn from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = models.seen_through(learner.sight, batch.steps)
    learner, found, info = estimate(of, learner, steps)
    data = fitting.Sequences((policy_data(steps), found.advantage, found.target), (batch.memory, learner.memory))
    learner, fit = fitting.epochs(
        key, learner, data, functools.partial(_step, of), config.epochs, config.num_minibatches
    )
    return learner._replace(
        memory=found.memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | fit | fitting.rate_info(learner.config, learner.seen)


def _step(of: Parts, learner: PPOState, batch: fitting.Sequences) -> tuple[PPOState, dict[str, Array]]:
    """Policy and critic, one gradient step each, on one minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    memory, critic_memory = batch.starts
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, config.share_weights)
    (loss, info), grads = jax.value_and_grad(policy_loss, has_aux=True)(
        learner.policy, of.actor, data, memory, advantage, config
    )
    lr = fitting.annealed(config.lr, learner.seen, config.anneal_steps)
    policy, policy_opt = rule(config).step(learner.policy, learner.policy_opt, grads, lr, config.max_grad_norm)
    learner, critic_info = critic_step(
        of.critic, learner._replace(policy=policy, policy_opt=policy_opt), data, critic_memory, target
    )
    info |= {"policy_loss": loss, "policy_grad_norm": trees.norm(grads)}
    return learner, info | critic_info


def critic_step(
    critic: models.Critic, learner: Any, data: PolicyData, memory: PyTree, target: Array
) -> tuple[Any, dict[str, Array]]:
    """One gradient step of a learner's critic on a minibatch."""
    config, weights = learner.config, (learner.critic, learner.critic_opt)
    lr = fitting.annealed(config.critic_lr, learner.seen, config.anneal_steps)
    (phi, opt), error, length = fitted(critic, config, lr, weights, data, memory, target)
    info = {"value_loss": error, "critic_grad_norm": length}
    return learner._replace(critic=phi, critic_opt=opt), info


def fitted(
    critic: models.Critic, config: settings.CriticConfig, lr: Number, weights: tuple[PyTree, PyTree], data: PolicyData,
    memory: PyTree, target: Array,
) -> tuple[tuple[PyTree, PyTree], Array, Array]:  # fmt: skip
    """A critic's weights and optimiser after a gradient step, its loss before, and the gradient's length."""
    phi, opt = weights
    error, grads = jax.value_and_grad(value_loss)(phi, critic, data, memory, target, config.share_weights)
    return rule(config).step(phi, opt, grads, lr, config.max_grad_norm), error, trees.norm(grads)
