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

from jaxmarl_lite.algorithms import (
    base_config,
    gradient_update,
    inner_update,
    liir_gradient,
    optimizers,
)
from jaxmarl_lite.algorithms.gradient_update import ModelState, PolicyBatch, SequenceBatch
from jaxmarl_lite.algorithms.inner_update import InnerUpdateRule
from jaxmarl_lite.algorithms.optimizers import LearningRate, OptimizerRule
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, bodies_of
from jaxmarl_lite.ops import (
    returns,
    running_statistics,
    surrogates,
    tree_math,
)
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

        The meta-gradient through a user's own update, here two plain steps on each minibatch:

        >>> def two_steps(loss, params, state, lr):
        ...     for _ in range(2):
        ...         grads = jax.grad(loss)(params)
        ...         params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
        ...     return params, state
        >>> import jax
        >>> config = jml.LIIRConfig(inner_update=two_steps, hidden_sizes=(8,))
        >>> jml.make_algorithm("liir", env.spec, config).name
        'liir'
    """

    intrinsic_coef: float = base_config.bounded(0.01, 0, 1e6)
    """λ, the weight of the intrinsic reward in the proxy reward; 0 learns without it."""
    intrinsic_lr: LearningRate = base_config.bounded(1e-4, 0, 10)
    """β, the learning rate of the intrinsic reward; or a schedule, as for lr. At 5e-4, that of the
    reference implementation, the reward of toy/relay is at its bound after hundreds of steps."""
    intrinsic_optimizer: OptimizerRule | None = None
    """Rule of the intrinsic reward's gradient steps, as for optimizer; None: that of optimizer, or
    adam where that is a complete one."""
    inner_update: InnerUpdateRule = "optimizer"
    """Update that the meta-gradient goes through: one step of optimizer down PPO's loss; or a
    function (loss, params, state, lr) -> (params, state), or module:name of one."""
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
        inner_update.check_form("LIIRConfig.inner_update", self.inner_update)
        rule = base_config.rule_of(self, "intrinsic_optimizer")
        base_config.check_unused(
            self,
            ("intrinsic_eps",),
            rule not in ("adam", "rmsprop"),
            "with optimizer 'sgd'" if rule == "sgd" else "with the intrinsic_optimizer given",
        )
        has_root = self.optimizer in ("adam", "rmsprop") and self.inner_update == "optimizer"
        # `isinstance` passes over traced values, which have no size to compare.
        if has_root and isinstance(self.eps_root, float) and self.eps_root <= 0:
            raise ValueError(
                f"LIIRConfig.eps_root is {self.eps_root!r} with optimizer {self.optimizer!r}; "
                "allowed is a positive "
                "number, because the meta-gradient through this optimizer is NaN where a gradient "
                "is zero (or use sgd)"
            )

    def rules_by_rate(self) -> dict[str, OptimizerRule | None]:
        """Returns the optimizers in use, see `LearnerConfig.rules_by_rate`."""
        rules = super().rules_by_rate()
        if self.inner_update != "optimizer":
            rules["lr"] = None
        if rules["intrinsic_lr"] in ("adam", "rmsprop"):  # without clipping, and with its own ε
            rules["intrinsic_lr"] = None
        return rules

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


def _intrinsic_optimizer(config: LIIRConfig) -> optimizers.Optimizer:
    """Returns the optimizer of η.

    Its steps do not depend on the scale of the gradient, because the meta-gradient is many orders
    of magnitude shorter than the other gradients.
    """
    return optimizers.make_scale_free_optimizer(
        base_config.rule_of(config, "intrinsic_optimizer"),
        config.intrinsic_eps,
        per_agent=config.sharing is not True,
        name="LIIRConfig.intrinsic_optimizer",
    )


def _update(
    networks: liir_gradient.LIIRNetworks,
    reward_type: str,
    key: Array,
    learner: LIIRState,
    batch: Rollout,
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
    advantage_inputs = liir_gradient.AdvantageInputs(
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
    lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
    learner = learner._replace(
        critic_hidden_states=hidden_states, **gradient_update.end_of_update(learner, batch)
    )
    if config.inner_update != "optimizer" or not optimizers.is_complete(config.optimizer):
        info["learning_rate"] = lr
    return learner, info | step_info


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
    networks: liir_gradient.LIIRNetworks, learner: LIIRState, batch: SequenceBatch
) -> tuple[LIIRState, dict[str, Array]]:
    """Steps the policy, the intrinsic reward and both critics once each, on one minibatch."""
    config, shared = learner.config, learner.config.sharing
    data, advantage_inputs, extrinsic_target = batch.steps
    policy_hidden_state, hidden_states = batch.initial_states
    rates = config.lr, config.critic_lr, config.intrinsic_lr
    actor_lr, critic_lr, intrinsic_lr = (
        optimizers.learning_rate(rate, learner.env_steps, config.lr_anneal_steps) for rate in rates
    )
    if config.normalize_advantages:
        extrinsic_advantage = actor_critic.standardize_advantages(
            advantage_inputs.extrinsic_advantage, data.obs.alive, shared
        )
        advantage_inputs = advantage_inputs._replace(extrinsic_advantage=extrinsic_advantage)
    meta = liir_gradient.meta_step(
        networks,
        config,
        learner.intrinsic_params,
        ModelState(learner.actor_params, learner.actor_opt_state),
        liir_gradient.MetaBatch(data, advantage_inputs, policy_hidden_state, hidden_states.reward),
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
    }
    if not optimizers.is_complete(base_config.rule_of(config, "intrinsic_optimizer")):
        # the norm of a step that changes every parameter by the learning rate
        full_norm = intrinsic_lr * jnp.sqrt(
            float(sum(x.size for x in jax.tree.leaves(intrinsic_params)))
        )
        info["intrinsic_step_share"] = jnp.where(
            full_norm > 0, update_norm / jnp.where(full_norm > 0, full_norm, 1.0), 0.0
        )
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


def make_liir(
    name: str, spec: EnvSpec, config: LIIRConfig, networks: Networks | None = None
) -> Algorithm:
    """Returns LIIR for one environment; the static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `LIIRState`.
    """
    bodies = bodies_of(name, networks, ("actor", "critic", "intrinsic_reward"), config.network_spec)
    nets = liir_gradient.make_liir_networks(spec, config, bodies)
    liir_gradient.check_inner_update(config, nets.actor)

    def init(key: Array, num_envs: int, config: LIIRConfig = config) -> LIIRState:
        config = base_config.as_arrays(config)
        keys = jax.random.split(key, 4)
        policy_and_critics = (nets.actor.net, nets.proxy.net, nets.extrinsic.net)
        # the second key is the intrinsic reward's
        actor_params, proxy_params, extrinsic_params = (
            net.init(key) for net, key in zip(policy_and_critics, (keys[0], *keys[2:]), strict=True)
        )
        intrinsic_params = nets.reward.init(keys[1], config.intrinsic_init_scale)
        init_opt_state = gradient_update.optimizer_of(
            config, "critic_optimizer", per_agent=config.sharing is not True
        ).init
        return LIIRState(
            config=config,
            actor_params=actor_params,
            actor_opt_state=liir_gradient.init_inner_state(config, actor_params),
            intrinsic_params=intrinsic_params,
            intrinsic_opt_state=_intrinsic_optimizer(config).init(intrinsic_params),
            proxy_critic_params=proxy_params,
            proxy_critic_opt_state=init_opt_state(proxy_params),
            extrinsic_critic_params=extrinsic_params,
            extrinsic_critic_opt_state=init_opt_state(extrinsic_params),
            critic_hidden_states=HiddenStates(
                *(
                    net.init_hidden_state(num_envs)
                    for net in (nets.proxy.net, nets.extrinsic.net, nets.reward.net)
                )
            ),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
        )

    def update(
        key: Array, learner: LIIRState, batch: Rollout
    ) -> tuple[LIIRState, dict[str, Array]]:
        return _update(nets, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name,
        config,
        init,
        nets.actor.net.init_hidden_state,
        act,
        update,
        check_sizes,
        spec,
        intrinsic_reward=functools.partial(intrinsic_rewards, nets.reward),
    )


def intrinsic_rewards(
    reward: liir_gradient.IntrinsicReward, learner: LIIRState, obs: Observation, action: Array
) -> Array:
    """Computes each agent's intrinsic reward in every step of one episode.

    Args:
        reward: the intrinsic reward's network.
        learner: the learner's state of one seed, as `train` or a run returns it.
        obs: observations of the steps of one episode, ``[T, ...]``, as `evaluate.make_play` returns
            them.
        action: actions of the same steps, ``[T, N]`` int or ``[T, N, A]`` float.

    Returns:
        ``[T, N]``, from minus to plus ``intrinsic_bound``; 0 for agents that are not alive.
    """
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
