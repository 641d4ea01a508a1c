"""LIIR's mathematics: the proxy advantage, the inner step, and the gradient of the extrinsic
objective through it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import ppo
from jaxmarl_lite.algorithms.liir.config import LIIRConfig
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import Network, make_network
from jaxmarl_lite.ops import returns, running_statistics, tree_math
from jaxmarl_lite.types import Array, EnvSpec, Number, PyTree


class AdvantageInputs(NamedTuple):
    """What advantages are made of, and the extrinsic ones ready made; ``[T, b, N]`` or ``[T, b,
    1]``.
    """

    reward: Array
    discount: Array
    last: Array
    proxy_value: Array
    next_proxy_value: Array
    extrinsic_advantage: Array


class IntrinsicReward(NamedTuple):
    """r_in, one function an agent, of what the agent sees and does."""

    net: Network
    discrete: bool

    def init(self, key: Array, gain: Number) -> PyTree:
        """Weights at random, the head's times ``gain``."""
        eta = self.net.init(key)
        return {**eta, "head": tree_math.scale(gain, eta["head"])}

    def unroll(
        self, eta: PyTree, hidden_state: PyTree, data: ppo.PolicyBatch, bound: Number
    ) -> tuple[Array, PyTree]:
        """``b tanh(x/b)``, in ``[T, b, N]``, 0 for agents out of play, and the memory after each
        step.
        """
        view, action = data.obs.agents_view, data.action
        if self.discrete:
            out, hidden_states = self.net.unroll(eta, hidden_state, view, data.is_first)
            raw = jnp.take_along_axis(out, action[..., None], -1)[..., 0]
        else:
            action = jnp.where(data.obs.action_mask, action, 0.0)
            out, hidden_states = self.net.unroll(
                eta, hidden_state, jnp.concatenate([view, action], -1), data.is_first
            )
            raw = out[..., 0]
        return jnp.where(data.obs.alive, bound * jnp.tanh(raw / bound), 0.0), hidden_states


class LIIRNetworks(NamedTuple):
    """LIIR's networks and optimizers, for an environment's sizes."""

    actor: actor_critic.Actor
    reward: IntrinsicReward
    proxy: actor_critic.Critic
    extrinsic: actor_critic.Critic


def make_liir_networks(spec: EnvSpec, config: LIIRConfig) -> LIIRNetworks:
    """The networks that the config's static fields describe."""
    shared, discrete = config.parameter_sharing, spec.action_type == "discrete"
    inputs = spec.obs_size if discrete else spec.obs_size + spec.action_size
    outputs = spec.action_size if discrete else 1
    net = make_network(
        config.network_spec, inputs, outputs, num_agents=spec.num_agents, shared=shared
    )
    return LIIRNetworks(
        actor_critic.make_actor(spec, config.network_spec, shared),
        IntrinsicReward(net, discrete),
        actor_critic.make_critic(spec, config.network_spec, config.critic_input, shared),
        actor_critic.make_critic(spec, config.network_spec, config.extrinsic_critic_input, shared),
    )


def proxy_advantage(
    eta: PyTree,
    reward: IntrinsicReward,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    given: AdvantageInputs,
    config: LIIRConfig,
) -> tuple[Array, tuple[Array, Array]]:
    """A_proxy as the policy step takes it, then as it is in the unit of reward, and r_in; all ``[T,
    b, N]``.
    """
    r_in, _ = reward.unroll(eta, hidden_state, data, config.intrinsic_bound)
    carrying = jax.lax.stop_gradient(r_in) if config.meta_gradient == "immediate" else r_in
    raw = returns.generalized_advantage_estimation(
        given.reward + config.intrinsic_coef * carrying,
        given.proxy_value,
        given.next_proxy_value,
        given.discount,
        given.last,
        config.gamma,
        config.gae_lambda,
    )
    if (
        config.meta_gradient == "immediate"
    ):  # equal in value; η enters through r_in of the same moment only
        raw = raw + config.intrinsic_coef * (r_in - carrying)
    ready = (
        actor_critic.standardize_advantages(raw, data.obs.alive, config.parameter_sharing)
        if config.normalize_advantages
        else raw
    )
    return ready, (raw, r_in)


def extrinsic_loss(
    theta: PyTree,
    actor: actor_critic.Actor,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: LIIRConfig,
) -> Array:
    """-J_ex at the policy ``theta``, by importance weights over the old samples (equation 8).
    Scalar.
    """
    pi = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    log_ratio = pi.log_prob(data.action) - data.log_prob
    if config.outer_ratio == "joint" or config.meta_gradient == "reference":
        log_ratio = jnp.broadcast_to(
            (log_ratio * data.obs.alive).sum(-1, keepdims=True), log_ratio.shape
        )
    return -actor_critic.masked_agent_mean(
        jnp.exp(log_ratio) * advantage, data.obs.alive, config.parameter_sharing
    )


class MetaStep(NamedTuple):
    """The policy after an inner step, and how the intrinsic reward should move."""

    actor_params: PyTree
    actor_opt_state: PyTree
    meta_gradient: PyTree  # of -J_ex with respect to η
    advantage: Array  # A_proxy in the unit of reward, [T, b, N]
    intrinsic_reward: Array  # r_in, [T, b, N]
    info: dict[str, Array]


def meta_step(
    of: LIIRNetworks,
    config: LIIRConfig,
    eta: PyTree,
    theta: PyTree,
    theta_opt: PyTree,
    data: ppo.PolicyBatch,
    given: AdvantageInputs,
    hidden_state: tuple[PyTree, PyTree],
    alpha: Number,
) -> MetaStep:
    """One inner step, and the gradient of the extrinsic objective after it with respect to η.

    The chain rule of equation 7 is taken factor by factor, backwards, along

        η  ->  A_proxy  ->  g = ∇_θ loss  ->  θ' = optimizer(θ, g)  ->  -J_ex(θ')

    Pulling a vector back through the second factor costs one more pass forward through the policy:
    g depends on A_proxy linearly, and no second derivative by θ is needed.

    Args:
        of: the networks.
        config: settings. eta, theta, theta_opt: weights of the intrinsic reward and of the policy,
            and the policy's optimizer. data, given: a minibatch.
        hidden_state: memories of policy and intrinsic reward at its start.
        alpha: α, the policy's learning rate.
    """
    policy_memory, reward_memory = hidden_state
    advantage, pull_advantage, (raw, r_in) = jax.vjp(
        lambda eta: proxy_advantage(eta, of.reward, data, reward_memory, given, config),
        eta,
        has_aux=True,
    )

    def loss(theta: PyTree, advantage: Array) -> tuple[Array, dict[str, Array]]:
        return ppo.policy_loss(theta, of.actor, data, policy_memory, advantage, config)

    def policy_gradient(advantage: Array) -> tuple[PyTree, Any]:
        found, grads = jax.value_and_grad(loss, has_aux=True)(theta, advantage)
        return grads, found

    grads, pull_gradient, (value, info) = jax.vjp(policy_gradient, advantage, has_aux=True)
    new_theta, pull_step, new_opt = jax.vjp(
        lambda g: ppo.optimizer_of(config).step(theta, theta_opt, g, alpha, config.max_grad_norm),
        grads,
        has_aux=True,
    )
    extrinsic_grads = jax.grad(extrinsic_loss)(
        new_theta, of.actor, data, policy_memory, given.extrinsic_advantage, config
    )
    if config.meta_gradient == "reference":
        meta = official_gradient(
            of,
            config,
            eta,
            theta,
            data,
            given,
            hidden_state,
            tree_math.scale(-1.0, extrinsic_grads),
        )
    else:
        # weight[t, b, i]: how much -J_ex(θ') grows with the advantage of that agent's sample
        (weight,) = pull_gradient(*pull_step(extrinsic_grads))
        (meta,) = pull_advantage(weight)
    info |= {
        "policy_loss": value,
        "policy_grad_norm": tree_math.norm(grads),
        "meta_gradient_norm": tree_math.norm(meta),
        "proxy_extrinsic_cosine": tree_math.cosine(grads, extrinsic_grads),
    }
    return MetaStep(new_theta, new_opt, meta, raw, r_in, info)


def official_gradient(
    of: LIIRNetworks,
    config: LIIRConfig,
    eta: PyTree,
    theta: PyTree,
    data: ppo.PolicyBatch,
    given: AdvantageInputs,
    hidden_state: tuple[PyTree, PyTree],
    g2: PyTree,
) -> PyTree:
    """What the authors' program descends along: s ∇_η E[R_proxy], with one scalar s = ⟨∇_θ E[log
    π_θ], g2⟩.

    ``g2`` is the gradient of J_ex at the new policy, by the joint ratio. The scalar has expectation
    near zero, because the mean score has, and its sign is the authors'.
    """
    policy_memory, reward_memory = hidden_state
    alive = data.obs.alive

    def mean_log_prob(theta: PyTree) -> Array:
        pi = of.actor.unroll(theta, policy_memory, data.obs, data.is_first)
        return running_statistics.masked_mean(pi.log_prob(data.action), alive)

    def mean_return(eta: PyTree) -> Array:
        _, (raw, _) = proxy_advantage(eta, of.reward, data, reward_memory, given, config)
        return running_statistics.masked_mean(raw, alive)

    return tree_math.scale(
        tree_math.vdot(jax.grad(mean_log_prob)(theta), g2), jax.grad(mean_return)(eta)
    )
