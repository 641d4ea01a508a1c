"""The networks of LIIR, and the gradient of its intrinsic reward through the policy's update.

The equations are in the docstring of `algorithms.liir`, whose settings these functions read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import gradient_update, inner_update, optimizers
from jaxmarl_lite.algorithms.gradient_update import ModelState, PolicyBatch
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.networks.torsos import Bodies, Network, Torso, bodies_of
from jaxmarl_lite.ops import (
    jax_types,
    meta_learning,
    returns,
    running_statistics,
    tree_math,
)
from jaxmarl_lite.types import Array, EnvSpec, Number, PyTree

if TYPE_CHECKING:
    from jaxmarl_lite.algorithms.liir import LIIRConfig


class IntrinsicReward(NamedTuple):
    """r_in, one function per agent of the agent's observation and action.

    Attributes:
        net: network with one output per discrete action, or with the action among its inputs and
            one output.
        discrete: whether the actions are discrete.
    """

    net: Network
    discrete: bool

    def init(self, key: Array, gain: Number) -> PyTree:
        """Returns random parameters, the head's multiplied by ``gain``.

        Args:
            key: typed PRNG key.
            gain: 0 or more.

        Returns:
            The parameters of ``net``.
        """
        params = self.net.init(key)
        return {**params, "head": tree_math.scale(gain, params["head"])}

    def unroll(
        self, intrinsic_params: PyTree, hidden_state: PyTree, data: PolicyBatch, bound: Number
    ) -> tuple[Array, PyTree]:
        """Computes the intrinsic rewards ``b tanh(x/b)`` of a batch, where b is ``bound``.

        Args:
            intrinsic_params: η, parameters of ``net``.
            hidden_state: hidden state of ``net`` at the start of the batch, ``[b, ...]``.
            data: a minibatch ``[T, b, ...]``.
            bound: bound of the absolute reward, > 0.

        Returns:
            The rewards ``[T, b, N]``, 0 for agents that are not alive, and the hidden states after
            each step, ``[T, b, ...]``.
        """
        observation, action = data.obs.agents_view, data.action
        if self.discrete:
            out, hidden_states = self.net.unroll(
                intrinsic_params, hidden_state, observation, data.is_first
            )
            raw = jnp.take_along_axis(out, action[..., None], -1)[..., 0]
        else:
            # dimensions that an agent does not have must not change its reward
            action = jnp.where(data.obs.action_mask, action, 0.0)
            out, hidden_states = self.net.unroll(
                intrinsic_params,
                hidden_state,
                jnp.concatenate([observation, action], -1),
                data.is_first,
            )
            raw = out[..., 0]
        return jnp.where(data.obs.alive, bound * jnp.tanh(raw / bound), 0.0), hidden_states


class LIIRNetworks(NamedTuple):
    """LIIR's networks, built for the sizes of one environment.

    Attributes:
        actor: the policies.
        reward: the intrinsic reward.
        proxy: critic of the proxy reward.
        extrinsic: critic of the extrinsic reward.
    """

    actor: actor_critic.Actor
    reward: IntrinsicReward
    proxy: actor_critic.Critic
    extrinsic: actor_critic.Critic


def make_liir_networks(
    spec: EnvSpec, config: LIIRConfig, bodies: Bodies[NetworkSpec | Torso] | None = None
) -> LIIRNetworks:
    """Returns the networks that the static fields of the config describe.

    Args:
        spec: the environment's sizes.
        config: settings.
        bodies: layers or torsos of actor, critics and intrinsic reward; None: those of the config.

    Returns:
        The networks.
    """
    bodies = bodies or bodies_of("liir", None, (), config.network_spec)
    shared, discrete = config.sharing, spec.action_type == "discrete"
    inputs = spec.obs_size if discrete else spec.obs_size + spec.action_size
    outputs = spec.action_size if discrete else 1
    net = make_network(
        bodies.intrinsic_reward, inputs, outputs, num_agents=spec.num_agents, shared=shared
    )
    return LIIRNetworks(
        actor_critic.make_actor(spec, bodies.actor, shared),
        IntrinsicReward(net, discrete),
        actor_critic.make_critic(spec, bodies.critic, config.critic_input, shared),
        actor_critic.make_critic(spec, bodies.critic, config.extrinsic_critic_input, shared),
    )


class AdvantageInputs(NamedTuple):
    """Inputs of the proxy advantage, and the finished extrinsic advantage, of b environments.

    Attributes:
        reward: ``[T, b, N]``, the extrinsic reward of the proxy reward.
        discount: ``[T, b, 1]``, 0 where the episode truly ends, else 1.
        last: ``[T, b, 1]`` bool, whether the step is the last of its episode.
        proxy_value: ``[T, b, N]``, the proxy critic's value of each step.
        next_proxy_value: ``[T, b, N]``, the proxy critic's value of the true successor.
        extrinsic_advantage: ``[T, b, N]``, A_ex.
    """

    reward: Array
    discount: Array
    last: Array
    proxy_value: Array
    next_proxy_value: Array
    extrinsic_advantage: Array


def proxy_advantage(
    eta: PyTree,
    reward: IntrinsicReward,
    data: PolicyBatch,
    hidden_state: PyTree,
    advantage_inputs: AdvantageInputs,
    config: LIIRConfig,
) -> tuple[Array, tuple[Array, Array]]:
    """Computes A_proxy, the generalized advantage of r_ex + λ r_in.

    Args:
        eta: η, parameters of the intrinsic reward.
        reward: the intrinsic reward.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the intrinsic reward's hidden state at the start of the minibatch,
            ``[b, ...]``.
        advantage_inputs: the other inputs of the advantage, of the same minibatch.
        config: settings; ``meta_gradient`` decides how η enters the result's derivative.

    Returns:
        A_proxy as the policy step takes it (standardized if ``normalize_advantages`` is set), then
        A_proxy in the unit of reward, and r_in; all ``[T, b, N]``.
    """
    r_in, _ = reward.unroll(eta, hidden_state, data, config.intrinsic_bound)
    return_r_in = jax.lax.stop_gradient(r_in) if config.meta_gradient == "immediate" else r_in
    raw = returns.generalized_advantage_estimation(
        advantage_inputs.reward + config.intrinsic_coef * return_r_in,
        advantage_inputs.proxy_value,
        advantage_inputs.next_proxy_value,
        advantage_inputs.discount,
        advantage_inputs.last,
        config.gamma,
        config.gae_lambda,
    )
    if config.meta_gradient == "immediate":
        # equal in value; η enters through the r_in of the same step only
        raw = raw + config.intrinsic_coef * (r_in - return_r_in)
    advantage = (
        actor_critic.standardize_advantages(raw, data.obs.alive, config.sharing)
        if config.normalize_advantages
        else raw
    )
    return advantage, (raw, r_in)


def extrinsic_loss(
    theta: PyTree,
    actor: actor_critic.Actor,
    data: PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    config: LIIRConfig,
) -> Array:
    """Computes -J_ex of a policy by importance weights over the old samples (equation 8).

    Args:
        theta: θ', parameters of the policy.
        actor: the policies.
        data: a minibatch ``[T, b, ...]`` of the policy that acted.
        hidden_state: the policy's hidden state at the start of the minibatch, ``[b, ...]``.
        advantage: A_ex, ``[T, b, N]``.
        config: settings; the ratio is the joint one with ``outer_ratio="joint"`` and with
            ``meta_gradient="reference"``.

    Returns:
        The loss, scalar.
    """
    pi = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    log_ratio = pi.log_prob(data.action) - data.log_prob
    if config.outer_ratio == "joint" or config.meta_gradient == "reference":
        log_ratio = jnp.broadcast_to(
            (log_ratio * data.obs.alive).sum(-1, keepdims=True), log_ratio.shape
        )
    return -actor_critic.masked_agent_mean(
        jnp.exp(log_ratio) * advantage, data.obs.alive, config.sharing
    )


class MetaBatch(NamedTuple):
    """A minibatch of b environments, as the meta-gradient takes it.

    Attributes:
        data: the steps, ``[T, b, ...]``.
        advantage_inputs: inputs of the advantages of the same steps.
        policy_hidden_state: the policy's hidden state at the start, ``[b, ...]``.
        reward_hidden_state: the intrinsic reward's hidden state at the start, ``[b, ...]``.
    """

    data: PolicyBatch
    advantage_inputs: AdvantageInputs
    policy_hidden_state: PyTree
    reward_hidden_state: PyTree


class MetaStep(NamedTuple):
    """The policy after an inner step, and the gradient of the intrinsic reward.

    Attributes:
        actor_params: θ', the policy's parameters after the step.
        actor_opt_state: state of the policy's optimizer after the step.
        meta_gradient: gradient of -J_ex with respect to η.
        advantage: A_proxy in the unit of reward, ``[T, b, N]``.
        intrinsic_reward: r_in, ``[T, b, N]``.
        info: scalar metrics.
    """

    actor_params: PyTree
    actor_opt_state: PyTree
    meta_gradient: PyTree
    advantage: Array
    intrinsic_reward: Array
    info: dict[str, Array]


@jax.named_scope("meta_gradient")
def meta_step(
    networks: LIIRNetworks,
    config: LIIRConfig,
    eta: PyTree,
    policy: ModelState,
    batch: MetaBatch,
    alpha: Number,
) -> MetaStep:
    """Takes one inner step, and computes the gradient with respect to η of -J_ex after it.

    The chain rule of equation 7 is taken factor by factor, backwards, along

        η  ->  A_proxy  ->  g = ∇_θ loss  ->  θ' = optimizer(θ, g)  ->  -J_ex(θ')

    Pulling a vector back through the second factor costs one more forward pass of the policy: g is
    linear in A_proxy, and no second derivative with respect to θ is needed.

    Args:
        networks: the networks.
        config: settings.
        eta: η, parameters of the intrinsic reward.
        policy: θ, parameters of the policy, and the state of its optimizer.
        batch: a minibatch.
        alpha: α, the policy's learning rate.

    Returns:
        The policy after the step, the meta-gradient, the proxy advantage and the intrinsic reward.
        The metrics are those of `gradient_update.clipped_policy_loss`, ``policy_loss``,
        ``policy_grad_norm``,
        ``meta_gradient_norm`` and ``proxy_extrinsic_cosine``.
    """
    data, advantage_inputs, policy_hidden_state, reward_hidden_state = batch
    take_step = _inner_step(networks, config, policy, batch, alpha)

    def update(eta: PyTree, theta: PyTree) -> tuple[PyTree, PyTree]:
        advantage, (raw, r_in) = proxy_advantage(
            eta, networks.reward, data, reward_hidden_state, advantage_inputs, config
        )
        new_theta, step = take_step(theta, advantage)
        return new_theta, (raw, r_in, step)

    def objective(theta: PyTree) -> Array:
        return extrinsic_loss(
            theta,
            networks.actor,
            data,
            policy_hidden_state,
            advantage_inputs.extrinsic_advantage,
            config,
        )

    meta = meta_learning.meta_gradient(eta, policy.params, update, objective, has_aux=True)
    raw, r_in, (new_opt_state, grads, policy_loss, info) = meta.aux
    gradient = meta.gradient
    if config.meta_gradient == "reference":
        extrinsic_gradient = tree_math.scale(-1.0, meta.outer_gradient)
        gradient = reference_gradient(
            networks, config, eta, policy.params, batch, extrinsic_gradient
        )
    info |= {
        "policy_loss": policy_loss,
        "policy_grad_norm": tree_math.norm(grads),
        "meta_gradient_norm": tree_math.norm(gradient),
        "proxy_extrinsic_cosine": tree_math.cosine(grads, meta.outer_gradient),
    }
    return MetaStep(meta.params, new_opt_state, gradient, raw, r_in, info)


InnerResult = tuple[PyTree, PyTree, Array, dict[str, Array]]
"""State of the inner update after it; the gradient of PPO's loss before it, the loss, and its
metrics."""


def _inner_step(
    networks: LIIRNetworks,
    config: LIIRConfig,
    policy: ModelState,
    batch: MetaBatch,
    alpha: Number,
) -> Callable[[PyTree, Array], tuple[PyTree, InnerResult]]:
    """Returns the inner update as a function ``(theta, advantage) -> (new_theta, result)``."""
    data, shared = batch.data, config.sharing

    def loss(theta: PyTree, advantage: Array) -> tuple[Array, dict[str, Array]]:
        pi = networks.actor.unroll(theta, batch.policy_hidden_state, data.obs, data.is_first)
        return gradient_update.clipped_policy_loss(pi, data, advantage, config, shared)

    def step_of_optimizer(theta: PyTree, advantage: Array) -> tuple[PyTree, InnerResult]:
        (value, info), grads = jax_types.value_and_grad(loss, has_aux=True)(theta, advantage)
        optimizer = gradient_update.optimizer_of(config, per_agent=shared is not True)
        is_complete = optimizers.is_complete(config.optimizer)
        used = inner_update.guard(grads, shared is not True) if is_complete else grads
        new_theta, state = optimizer.step(
            theta, policy.opt_state, used, alpha, config.max_grad_norm
        )
        return new_theta, (state, grads, value, info)

    def step_of_user(theta: PyTree, advantage: Array) -> tuple[PyTree, InnerResult]:
        inner = inner_update.load(_INNER_UPDATE, config.inner_update)
        new_theta, state = inner.update(
            lambda theta: loss(theta, advantage)[0], theta, policy.opt_state, alpha
        )
        (value, info), grads = jax_types.value_and_grad(loss, has_aux=True)(theta, advantage)
        return new_theta, (state, grads, value, info)

    return step_of_optimizer if config.inner_update == "optimizer" else step_of_user


_INNER_UPDATE = "LIIRConfig.inner_update"


def init_inner_state(config: LIIRConfig, actor_params: PyTree) -> PyTree:
    """Returns the state of the inner update before the first one.

    Args:
        config: settings.
        actor_params: parameters of the policy.

    Returns:
        The optimizer's state, or that of the user's update.
    """
    if config.inner_update != "optimizer":
        state = inner_update.load(_INNER_UPDATE, config.inner_update).init(actor_params)
        return tree_math.map_leaves(jnp.asarray, state)
    per_agent = config.sharing is not True
    return gradient_update.optimizer_of(config, per_agent=per_agent).init(actor_params)


def check_inner_update(config: LIIRConfig, actor: actor_critic.Actor) -> None:
    """Checks that the meta-gradient can go through a user's update or optimizer.

    Args:
        config: settings.
        actor: the policies.

    Raises:
        ValueError: it cannot, see `inner_update.check_derivative`.
    """
    if config.meta_gradient == "reference":
        return
    params = jax_types.eval_shape(actor.net.init, jax.random.key(0))
    per_agent = config.sharing is not True
    if config.inner_update != "optimizer":
        inner = inner_update.load(_INNER_UPDATE, config.inner_update)
        inner_update.check_derivative(_INNER_UPDATE, config.inner_update, inner, params)
    elif optimizers.is_complete(config.optimizer):
        optimizer = gradient_update.optimizer_of(config, per_agent=per_agent)
        inner = inner_update.from_optimizer(optimizer, per_agent)
        inner_update.check_derivative("LIIRConfig.optimizer", config.optimizer, inner, params)


def reference_gradient(
    networks: LIIRNetworks,
    config: LIIRConfig,
    eta: PyTree,
    theta: PyTree,
    batch: MetaBatch,
    extrinsic_gradient: PyTree,
) -> PyTree:
    """Computes the gradient that the reference implementation descends along.

        s ∇_η E[R_proxy],   s = ⟨∇_θ E[log π_θ], g₂⟩

    g₂ is ``extrinsic_gradient``. The one scalar s has expectation near zero, because the mean score
    has, and its sign is that of the reference implementation.

    Args:
        networks: the networks.
        config: settings.
        eta: η, parameters of the intrinsic reward.
        theta: θ, parameters of the policy that acted.
        batch: a minibatch.
        extrinsic_gradient: the gradient of J_ex at the new policy, by the joint ratio.

    Returns:
        The gradient, a tree with the structure of ``eta``.
    """
    data, advantage_inputs, policy_hidden_state, reward_hidden_state = batch
    alive = data.obs.alive

    def mean_log_prob(theta: PyTree) -> Array:
        pi = networks.actor.unroll(theta, policy_hidden_state, data.obs, data.is_first)
        return running_statistics.masked_mean(pi.log_prob(data.action), alive)

    def mean_return(eta: PyTree) -> Array:
        # the advantage differs from the return by the critic's values, which do not depend on η
        _, (raw, _) = proxy_advantage(
            eta, networks.reward, data, reward_hidden_state, advantage_inputs, config
        )
        return running_statistics.masked_mean(raw, alive)

    return tree_math.scale(
        tree_math.vdot(jax_types.grad(mean_log_prob)(theta), extrinsic_gradient),
        jax_types.grad(mean_return)(eta),
    )
