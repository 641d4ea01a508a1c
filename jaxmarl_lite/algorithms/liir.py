"""LIIR: each agent learns an intrinsic reward that serves the team's return.

Du et al., NeurIPS 2019:

    r_proxy_i = r_ex + λ r_in_i(o_i, u_i; η)                                the proxy reward
    θ'        = θ + α ∇_θ E[ log π_θ(u_i|o_i) A_proxy_i ]                   eq. 6, the inner step
    ∇_η J_ex  = ∇_η θ' · ∇_θ' J_ex                                          eq. 7, the chain rule
    ∇_θ' J_ex = ∇_θ' E[ π_θ'(u_i|o_i) / π_θ(u_i|o_i) · A_ex ]               eq. 8, reused samples
    ∇_η θ'    = α λ ∇_θ log π_θ(u_i|o_i) ∇_η r_in_i(o_i, u_i; η)            eq. 9

Departures from the paper:
  - the inner step is PPO's (`gradient_update.clipped_policy_loss`), which with one epoch of one
    minibatch is equation 6; each of its minibatch steps is followed by an outer step through it; an
    agent that is not alive receives no intrinsic reward;
  - where every agent receives its individual reward, r_ex in its proxy reward is that reward, and
    J_ex is the objective of their sum;
  - `meta_gradient="exact"`, the default, carries η through the whole return, its standardization
    and the actual optimizer. Equation 9 keeps the immediate reward alone: that is `"immediate"`;
  - `"reference"` is the gradient of the reference implementation (one scalar for all samples, with
    its sign), for comparison. It equals that of the reference implementation where all actions are
    legal. Elsewhere the ratio differs: the reference implementation divides probabilities from
    before the renormalization over the legal actions by probabilities from after it; here both are
    from after it;
  - the optimizer of η adds its epsilon as a share (`intrinsic_eps`): the meta-gradient is smaller
    than any usual epsilon, and η would hardly change.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, gradient_update
from jaxmarl_lite.algorithms.gradient_update import ModelState, PolicyBatch, SequenceBatch
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import Network, make_network
from jaxmarl_lite.ops import jax_types, returns, running_statistics, surrogates, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Number, Observation, PyTree, Rollout


@base_config.config_record
class LIIRConfig(
    base_config.ClippedStepConfig, base_config.CriticInputConfig, base_config.SharingConfig
):
    """Settings of LIIR: those of PPO's policy step, and those of the intrinsic reward.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> config = jml.LIIRConfig(intrinsic_coef=0.1, meta_gradient="immediate")
        >>> jml.make_algorithm("liir", env.spec, config).config.meta_gradient
        'immediate'
        >>> jml.LIIRConfig.reference(meta_gradient="exact").optimizer
        'rmsprop'
    """

    intrinsic_coef: float = base_config.bounded(0.01, 0, 1e6)
    """λ, the weight of the intrinsic reward in the proxy reward; 0 learns without it."""
    intrinsic_lr: float = base_config.bounded(5e-4, 0, 10)
    """β, the learning rate of the intrinsic reward."""
    intrinsic_eps: float = base_config.bounded(1e-5, 1e-12, 1)
    """ε of the intrinsic reward's optimizer, as a share of the root mean square of its second
    moments: its steps depend neither on the scale of the meta-gradient nor on λ."""
    intrinsic_init_scale: float = base_config.bounded(0.01, 0, 1e3)
    """Initial gain of the intrinsic reward's head: near 0, learning begins as without it. With
    intrinsic_lr 0 the reward stays at its random initialization."""
    intrinsic_bound: float = base_config.bounded(10.0, 1e-6, 1e6)
    """Bound b of the intrinsic reward, b tanh(x/b)."""
    meta_gradient: Literal["exact", "immediate", "reference"] = "exact"
    """Path of η into the advantage: the whole return, the immediate reward (equation 9), or the one
    scalar of the reference implementation (equal to it where all actions are legal)."""
    outer_ratio: Literal["agent", "joint"] = "agent"
    """Importance ratio of the outer step: each agent's own (equation 8), or the product over the
    team."""
    extrinsic_critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the extrinsic critic; `critic_input` is the input of the proxy critics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_unused(
            self, ("intrinsic_eps",), self.optimizer == "sgd", "with optimizer 'sgd'"
        )
        # `isinstance` passes over traced values, which have no size to compare.
        if self.optimizer != "sgd" and isinstance(self.eps_root, float) and self.eps_root <= 0:
            raise ValueError(
                f"LIIRConfig.eps_root is {self.eps_root!r} with optimizer {self.optimizer!r}; "
                "allowed is a positive "
                "number, because the meta-gradient through this optimizer is NaN where a gradient "
                "is zero (or use sgd)"
            )

    @classmethod
    def reference(cls, **changes: object) -> LIIRConfig:
        """Returns the settings of the reference implementation, where they are settings here.

        They are one step of the policy per batch by RMSprop, hidden states of 64, TD(0.8), and one
        scalar for all samples: give ``meta_gradient="exact"`` for the paper's gradient at these
        settings. The batch of the reference implementation was 32 environments. Its policy keeps a
        lower bound under every probability, where the policy here has an entropy bonus. Its RMSprop
        adds an absolute 1e-5 to the root of the meta-gradient's second moment, which the optimizer
        here adds as a share (``intrinsic_eps``).

        Args:
            changes: fields of the config with other values.

        Returns:
            The config.

        Raises:
            ValueError: a value is not allowed, as in the constructor.
        """
        fields: dict[str, object] = dict(
            meta_gradient="reference",
            outer_ratio="joint",
            intrinsic_coef=0.01,
            intrinsic_bound=10.0,
            lr=5e-4,
            critic_lr=5e-4,
            intrinsic_lr=5e-4,
            optimizer="rmsprop",
            eps_root=1e-10,
            max_grad_norm=10.0,
            gamma=0.99,
            gae_lambda=0.8,
            num_epochs=1,
            num_minibatches=1,
            recurrent=True,
            rnn_hidden_size=64,
            hidden_sizes=(64,),
            critic_input="global_state",
        )
        return base_config.override(cls, fields, changes)


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


def make_liir_networks(spec: EnvSpec, config: LIIRConfig) -> LIIRNetworks:
    """Returns the networks that the static fields of the config describe.

    Args:
        spec: the environment's sizes.
        config: settings.

    Returns:
        The networks.
    """
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
        actor_critic.standardize_advantages(raw, data.obs.alive, config.parameter_sharing)
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
        jnp.exp(log_ratio) * advantage, data.obs.alive, config.parameter_sharing
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
    shared = config.parameter_sharing

    # Each `vjp` evaluates one factor of the chain forwards and keeps its pullback for the way back.
    def advantage_of(eta: PyTree) -> tuple[Array, tuple[Array, Array]]:
        return proxy_advantage(
            eta, networks.reward, data, reward_hidden_state, advantage_inputs, config
        )

    advantage, pull_advantage, (raw, r_in) = jax_types.vjp(advantage_of, eta, has_aux=True)

    def loss(theta: PyTree, advantage: Array) -> tuple[Array, dict[str, Array]]:
        pi = networks.actor.unroll(theta, policy_hidden_state, data.obs, data.is_first)
        return gradient_update.clipped_policy_loss(pi, data, advantage, config, shared)

    def policy_gradient(advantage: Array) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
        loss_and_info, grads = jax_types.value_and_grad(loss, has_aux=True)(
            policy.params, advantage
        )
        return grads, loss_and_info

    grads, pull_gradient, (policy_loss, info) = jax_types.vjp(
        policy_gradient, advantage, has_aux=True
    )
    optimizer = gradient_update.make_optimizer(config.optimizer, config.eps_root, not shared)

    def step(grads: PyTree) -> tuple[PyTree, PyTree]:
        return optimizer.step(*policy, grads, alpha, config.max_grad_norm)

    # The optimizer's state is an auxiliary output: only θ' enters -J_ex.
    new_theta, pull_step, new_opt_state = jax_types.vjp(step, grads, has_aux=True)
    extrinsic_grads = jax_types.grad(extrinsic_loss)(
        new_theta,
        networks.actor,
        data,
        policy_hidden_state,
        advantage_inputs.extrinsic_advantage,
        config,
    )
    if config.meta_gradient == "reference":
        meta_gradient = reference_gradient(
            networks, config, eta, policy.params, batch, tree_math.scale(-1.0, extrinsic_grads)
        )
    else:
        # weight[t, b, i]: how much -J_ex(θ') grows with the advantage of that agent's sample
        (weight,) = pull_gradient(*pull_step(extrinsic_grads))
        (meta_gradient,) = pull_advantage(weight)
    info |= {
        "policy_loss": policy_loss,
        "policy_grad_norm": tree_math.norm(grads),
        "meta_gradient_norm": tree_math.norm(meta_gradient),
        "proxy_extrinsic_cosine": tree_math.cosine(grads, extrinsic_grads),
    }
    return MetaStep(new_theta, new_opt_state, meta_gradient, raw, r_in, info)


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


class HiddenStates(NamedTuple):
    """Hidden states of the three networks that the rollout does not run, ``[B, ...]``.

    Attributes:
        proxy: hidden state of the proxy critic.
        extrinsic: hidden state of the extrinsic critic.
        reward: hidden state of the intrinsic reward.
    """

    proxy: PyTree
    extrinsic: PyTree
    reward: PyTree


class LIIRState(NamedTuple):
    """State of a LIIR learner, carried from update to update.

    Attributes:
        config: the config with its floats as arrays.
        actor_params: θ, parameters of the policy.
        actor_opt_state: state of the policy's optimizer.
        intrinsic_params: η, parameters of the intrinsic reward.
        intrinsic_opt_state: state of the intrinsic reward's optimizer.
        proxy_critic_params: parameters of the proxy critic.
        proxy_critic_opt_state: state of the proxy critic's optimizer.
        extrinsic_critic_params: parameters of the extrinsic critic.
        extrinsic_critic_opt_state: state of the extrinsic critic's optimizer.
        critic_hidden_states: hidden states of the critics and of the intrinsic reward at the start
            of the next rollout.
        obs_normalizer: running moments of observations and global states, or ().
        env_steps: ``[]``, environment steps so far.
    """

    config: LIIRConfig
    actor_params: PyTree
    actor_opt_state: PyTree
    intrinsic_params: PyTree
    intrinsic_opt_state: PyTree
    proxy_critic_params: PyTree
    proxy_critic_opt_state: PyTree
    extrinsic_critic_params: PyTree
    extrinsic_critic_opt_state: PyTree
    critic_hidden_states: HiddenStates
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    env_steps: Array


def _intrinsic_optimizer(config: LIIRConfig) -> gradient_update.Optimizer:
    """Returns the optimizer of η.

    Its steps do not depend on the scale of the gradient, because the meta-gradient is many orders
    of magnitude shorter than the other gradients.
    """
    return gradient_update.make_scale_free_optimizer(
        config.optimizer, config.intrinsic_eps, per_agent=not config.parameter_sharing
    )


def _update(
    networks: LIIRNetworks, reward_type: str, key: Array, learner: LIIRState, batch: Rollout
) -> tuple[LIIRState, dict[str, Array]]:
    """Learns from a rollout: values and A_ex once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    data = gradient_update.to_policy_batch(steps)
    discount, last = steps.discount[..., None], steps.last[..., None]
    proxy_value, next_proxy_value, proxy_hidden_state = networks.proxy.values_and_bootstrap(
        learner.proxy_critic_params, learner.critic_hidden_states.proxy, steps
    )
    value, next_value, extrinsic_hidden_state = networks.extrinsic.values_and_bootstrap(
        learner.extrinsic_critic_params, learner.critic_hidden_states.extrinsic, steps
    )
    # J_ex is the team's objective, while the proxy reward contains the agent's individual reward.
    team_reward = actor_critic.to_team_reward(reward_type, steps.reward)
    advantage = returns.generalized_advantage_estimation(
        team_reward, value, next_value, discount, last, config.gamma, config.gae_lambda
    )
    # A_proxy is left to the minibatch steps, since η changes between them.
    r_in, reward_hidden_states = networks.reward.unroll(
        learner.intrinsic_params, learner.critic_hidden_states.reward, data, config.intrinsic_bound
    )
    advantage_inputs = AdvantageInputs(
        steps.reward, discount, last, proxy_value, next_proxy_value, advantage
    )
    minibatches = SequenceBatch(
        (data, advantage_inputs, advantage + value),
        (batch.initial_hidden_state, learner.critic_hidden_states),
    )
    info = {
        "explained_variance": surrogates.explained_variance(
            value, advantage + value, data.obs.alive
        ),
    } | _intrinsic_metrics(r_in, data.obs.alive, config.intrinsic_bound)
    step = functools.partial(_step, networks)
    learner, step_info = gradient_update.run_epochs(
        key, learner, minibatches, step, config.num_epochs, config.num_minibatches
    )
    hidden_states = HiddenStates(
        proxy_hidden_state,
        extrinsic_hidden_state,
        actor_critic.final_hidden_state(reward_hidden_states, steps.last),
    )
    lr = gradient_update.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    learner = learner._replace(
        critic_hidden_states=hidden_states, **gradient_update.end_of_update(learner, batch)
    )
    return learner, info | step_info | {"learning_rate": lr}


def _intrinsic_metrics(r_in: Array, alive: Array, bound: Number) -> dict[str, Array]:
    """Returns the mean and deviation per agent of r_in ``[T, B, N]``, and its saturation."""
    mean = running_statistics.masked_mean(r_in, alive, (0, 1))
    variance = running_statistics.masked_mean((r_in - mean[None, None]) ** 2, alive, (0, 1))
    saturated = (jnp.abs(r_in) > 0.95 * bound).astype(r_in.dtype)
    return {
        "intrinsic_reward_mean": mean,
        "intrinsic_reward_std": jnp.sqrt(variance),
        "intrinsic_saturation": running_statistics.masked_mean(saturated, alive),
    }


def _step(
    networks: LIIRNetworks, learner: LIIRState, batch: SequenceBatch
) -> tuple[LIIRState, dict[str, Array]]:
    """Steps the policy, the intrinsic reward and both critics once each, on one minibatch."""
    config, shared = learner.config, learner.config.parameter_sharing
    data, advantage_inputs, extrinsic_target = batch.steps
    policy_hidden_state, hidden_states = batch.initial_states
    rates = config.lr, config.critic_lr, config.intrinsic_lr
    actor_lr, critic_lr, intrinsic_lr = (
        gradient_update.linear_schedule(rate, learner.env_steps, config.lr_anneal_steps)
        for rate in rates
    )
    if config.normalize_advantages:
        extrinsic_advantage = actor_critic.standardize_advantages(
            advantage_inputs.extrinsic_advantage, data.obs.alive, shared
        )
        advantage_inputs = advantage_inputs._replace(extrinsic_advantage=extrinsic_advantage)
    meta = meta_step(
        networks,
        config,
        learner.intrinsic_params,
        ModelState(learner.actor_params, learner.actor_opt_state),
        MetaBatch(data, advantage_inputs, policy_hidden_state, hidden_states.reward),
        actor_lr,
    )
    intrinsic_params, intrinsic_opt_state = _intrinsic_optimizer(config).step(
        learner.intrinsic_params,
        learner.intrinsic_opt_state,
        meta.meta_gradient,
        intrinsic_lr,
        config.max_grad_norm,
    )
    update_norm = tree_math.norm(
        tree_math.add_scaled(-1.0, learner.intrinsic_params, intrinsic_params)
    )
    # the norm of a step that changes every parameter by the learning rate
    full_norm = intrinsic_lr * jnp.sqrt(
        float(sum(x.size for x in jax.tree.leaves(intrinsic_params)))
    )
    # The proxy critic learns from the rewards that the inner step used, with η before its step.
    proxy_target = meta.advantage + advantage_inputs.proxy_value
    proxy = gradient_update.critic_step(
        networks.proxy,
        ModelState(learner.proxy_critic_params, learner.proxy_critic_opt_state),
        SequenceBatch((data, proxy_target), hidden_states.proxy),
        critic_lr,
        config,
        shared,
    )
    extrinsic = gradient_update.critic_step(
        networks.extrinsic,
        ModelState(learner.extrinsic_critic_params, learner.extrinsic_critic_opt_state),
        SequenceBatch((data, extrinsic_target), hidden_states.extrinsic),
        critic_lr,
        config,
        shared,
    )
    info = meta.info | {
        "proxy_value_loss": proxy.loss,
        "value_loss": extrinsic.loss,
        "critic_grad_norm": extrinsic.grad_norm,
        "intrinsic_update_norm": update_norm,
        "intrinsic_step_share": jnp.where(
            full_norm > 0, update_norm / jnp.where(full_norm > 0, full_norm, 1.0), 0.0
        ),
    }
    return learner._replace(
        actor_params=meta.actor_params,
        actor_opt_state=meta.actor_opt_state,
        intrinsic_params=intrinsic_params,
        intrinsic_opt_state=intrinsic_opt_state,
        proxy_critic_params=proxy.state.params,
        proxy_critic_opt_state=proxy.state.opt_state,
        extrinsic_critic_params=extrinsic.state.params,
        extrinsic_critic_opt_state=extrinsic.state.opt_state,
    ), info


def make_liir(name: str, spec: EnvSpec, config: LIIRConfig) -> Algorithm:
    """Returns LIIR for one environment; the static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.

    Returns:
        The algorithm, whose learner's state is a `LIIRState`.
    """
    networks = make_liir_networks(spec, config)

    def init(key: Array, num_envs: int, config: LIIRConfig = config) -> LIIRState:
        config = base_config.as_arrays(config)
        keys = jax.random.split(key, 4)
        nets = (networks.actor.net, networks.proxy.net, networks.extrinsic.net)
        # the second key is the intrinsic reward's
        actor_params, proxy_params, extrinsic_params = (
            net.init(key) for net, key in zip(nets, (keys[0], *keys[2:]), strict=True)
        )
        intrinsic_params = networks.reward.init(keys[1], config.intrinsic_init_scale)
        init_opt_state = gradient_update.make_optimizer(
            config.optimizer, config.eps_root, per_agent=not config.parameter_sharing
        ).init
        return LIIRState(
            config=config,
            actor_params=actor_params,
            actor_opt_state=init_opt_state(actor_params),
            intrinsic_params=intrinsic_params,
            intrinsic_opt_state=_intrinsic_optimizer(config).init(intrinsic_params),
            proxy_critic_params=proxy_params,
            proxy_critic_opt_state=init_opt_state(proxy_params),
            extrinsic_critic_params=extrinsic_params,
            extrinsic_critic_opt_state=init_opt_state(extrinsic_params),
            critic_hidden_states=HiddenStates(
                *(
                    net.init_hidden_state(num_envs)
                    for net in (nets[1], nets[2], networks.reward.net)
                )
            ),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
        )

    def update(
        key: Array, learner: LIIRState, batch: Rollout
    ) -> tuple[LIIRState, dict[str, Array]]:
        return _update(networks, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, networks.actor)
    return Algorithm(
        name,
        config,
        init,
        networks.actor.net.init_hidden_state,
        act,
        update,
        check_sizes,
        spec,
        intrinsic_reward=functools.partial(intrinsic_rewards, spec),
    )


def intrinsic_rewards(spec: EnvSpec, learner: LIIRState, obs: Observation, action: Array) -> Array:
    """Computes each agent's intrinsic reward in every step of one episode.

    Args:
        spec: the environment's sizes.
        learner: the learner's state of one seed, as `train` or a run returns it.
        obs: observations of the steps of one episode, ``[T, ...]``, as `evaluate.make_play` returns
            them.
        action: actions of the same steps, ``[T, N]`` int or ``[T, N, A]`` float.

    Returns:
        ``[T, N]``, from minus to plus ``intrinsic_bound``; 0 for agents that are not alive.
    """
    reward = make_liir_networks(spec, learner.config).reward
    obs, action = tree_math.map_leaves(
        lambda x: x[:, None], (actor_critic.normalize_obs(learner.obs_normalizer, obs), action)
    )
    # one episode, so the initial hidden state is reset and no step resets it again
    is_first = jnp.zeros(obs.alive.shape[:2], bool)
    data = PolicyBatch(obs, action, jnp.zeros(obs.alive.shape), is_first)
    r_in, _ = reward.unroll(
        learner.intrinsic_params,
        reward.net.init_hidden_state(1),
        data,
        learner.config.intrinsic_bound,
    )
    return r_in[:, 0]
