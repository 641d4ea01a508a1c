"""LIIR as a learning algorithm: state, update, and the intrinsic rewards of an episode."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, minibatch, ppo
from jaxmarl_lite.algorithms.liir.config import LIIRConfig
from jaxmarl_lite.algorithms.liir.meta_gradient import (
    AdvantageInputs,
    LIIRNetworks,
    make_liir_networks,
    meta_step,
)
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import jax_types, returns, running_statistics, surrogates, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Number, Observation, PyTree, Rollout


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
        init_opt_state = ppo.optimizer_of(config).init
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

    def act(
        learner: LIIRState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return networks.actor.act(
            learner.actor_params,
            key,
            actor_critic.normalize_obs(learner.obs_normalizer, obs),
            hidden_state,
            greedy,
        )

    def update(
        key: Array, learner: LIIRState, batch: Rollout
    ) -> tuple[LIIRState, dict[str, Array]]:
        return _update(networks, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        minibatch.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(
        name, config, init, networks.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _intrinsic_optimizer(config: LIIRConfig) -> minibatch.Optimizer:
    """Returns the optimizer of η.

    Its steps do not depend on the scale of the gradient, because the meta-gradient is many orders
    of magnitude shorter than the other gradients.
    """
    return minibatch.make_scale_free_optimizer(
        config.optimizer, config.intrinsic_eps, per_agent=not config.parameter_sharing
    )


def _update(
    networks: LIIRNetworks, reward_type: str, key: Array, learner: LIIRState, batch: Rollout
) -> tuple[LIIRState, dict[str, Array]]:
    """Learns from a rollout: values and A_ex once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    data = ppo.to_policy_batch(steps)
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
    minibatches = minibatch.SequenceBatch(
        (data, advantage_inputs, advantage + value),
        (batch.initial_hidden_state, learner.critic_hidden_states),
    )
    info = {
        "explained_variance": surrogates.explained_variance(
            value, advantage + value, data.obs.alive
        ),
    } | _intrinsic_metrics(r_in, data.obs.alive, config.intrinsic_bound)
    step = functools.partial(_step, networks)
    learner, step_info = minibatch.run_epochs(
        key, learner, minibatches, step, config.num_epochs, config.num_minibatches
    )
    hidden_states = HiddenStates(
        proxy_hidden_state,
        extrinsic_hidden_state,
        actor_critic.final_hidden_state(reward_hidden_states, steps.last),
    )
    return learner._replace(
        critic_hidden_states=hidden_states,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | step_info | minibatch.learning_rate_metric(learner.config, learner.env_steps)


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
    networks: LIIRNetworks, learner: LIIRState, batch: minibatch.SequenceBatch
) -> tuple[LIIRState, dict[str, Array]]:
    """Steps the policy, the intrinsic reward and both critics once each, on one minibatch."""
    config, shared = learner.config, learner.config.parameter_sharing
    data, advantage_inputs, extrinsic_target = batch.steps
    policy_hidden_state, hidden_states = batch.initial_states
    rates = config.lr, config.critic_lr, config.intrinsic_lr
    actor_lr, critic_lr, intrinsic_lr = (
        minibatch.linear_schedule(rate, learner.env_steps, config.lr_anneal_steps) for rate in rates
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
        learner.actor_params,
        learner.actor_opt_state,
        data,
        advantage_inputs,
        (policy_hidden_state, hidden_states.reward),
        actor_lr,
    )
    critic_step, intrinsic_step = ppo.optimizer_of(config).step, _intrinsic_optimizer(config).step
    intrinsic_params, intrinsic_opt_state = intrinsic_step(
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
    proxy_loss, proxy_grads = jax_types.value_and_grad(ppo.value_loss)(
        learner.proxy_critic_params,
        networks.proxy,
        data,
        hidden_states.proxy,
        proxy_target,
        shared,
    )
    proxy_params, proxy_opt_state = critic_step(
        learner.proxy_critic_params,
        learner.proxy_critic_opt_state,
        proxy_grads,
        critic_lr,
        config.max_grad_norm,
    )
    extrinsic_loss, extrinsic_grads = jax_types.value_and_grad(ppo.value_loss)(
        learner.extrinsic_critic_params,
        networks.extrinsic,
        data,
        hidden_states.extrinsic,
        extrinsic_target,
        shared,
    )
    extrinsic_params, extrinsic_opt_state = critic_step(
        learner.extrinsic_critic_params,
        learner.extrinsic_critic_opt_state,
        extrinsic_grads,
        critic_lr,
        config.max_grad_norm,
    )
    info = meta.info | {
        "proxy_value_loss": proxy_loss,
        "value_loss": extrinsic_loss,
        "critic_grad_norm": tree_math.norm(extrinsic_grads),
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
        proxy_critic_params=proxy_params,
        proxy_critic_opt_state=proxy_opt_state,
        extrinsic_critic_params=extrinsic_params,
        extrinsic_critic_opt_state=extrinsic_opt_state,
    ), info


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
    data = ppo.PolicyBatch(obs, action, jnp.zeros(obs.alive.shape), is_first)
    r_in, _ = reward.unroll(
        learner.intrinsic_params,
        reward.net.init_hidden_state(1),
        data,
        learner.config.intrinsic_bound,
    )
    return r_in[:, 0]
