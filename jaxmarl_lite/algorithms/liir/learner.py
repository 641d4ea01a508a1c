"""LIIR as a learning algorithm: its state, one update, and what its reward says."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

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
from jaxmarl_lite.ops import returns, running_statistics, surrogates, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Number, Observation, PyTree, Rollout


class HiddenStates(NamedTuple):
    """Memories of the three networks that the rollout does not run, ``[B, ...]``."""

    proxy: PyTree
    extrinsic: PyTree
    reward: PyTree


class LIIRState(NamedTuple):
    """What LIIR carries from update to update."""

    config: LIIRConfig
    actor_params: PyTree  # θ
    actor_opt_state: PyTree
    intrinsic_params: PyTree  # η
    intrinsic_opt_state: PyTree
    proxy_critic_params: PyTree
    proxy_critic_opt_state: PyTree
    extrinsic_critic_params: PyTree
    extrinsic_critic_opt_state: PyTree
    critic_hidden_states: HiddenStates
    obs_normalizer: Any
    env_steps: Array  # [] environment steps


def make_liir(name: str, spec: EnvSpec, config: LIIRConfig) -> Algorithm:
    """LIIR for an environment of these sizes; the config's static fields decide the networks."""
    of = make_liir_networks(spec, config)

    def init(key: Array, num_envs: int, config: LIIRConfig = config) -> LIIRState:
        config = base_config.as_arrays(config)
        keys = jax.random.split(key, 4)
        nets = (of.actor.net, of.proxy.net, of.extrinsic.net)
        theta, proxy, extrinsic = (
            net.init(key) for net, key in zip(nets, (keys[0], *keys[2:]), strict=True)
        )
        eta = of.reward.init(keys[1], config.intrinsic_init_scale)
        start = ppo.optimizer_of(config).init
        return LIIRState(
            config=config,
            actor_params=theta,
            actor_opt_state=start(theta),
            intrinsic_params=eta,
            intrinsic_opt_state=_intrinsic_optimizer(config).init(eta),
            proxy_critic_params=proxy,
            proxy_critic_opt_state=start(proxy),
            extrinsic_critic_params=extrinsic,
            extrinsic_critic_opt_state=start(extrinsic),
            critic_hidden_states=HiddenStates(
                *(net.init_hidden_state(num_envs) for net in (nets[1], nets[2], of.reward.net))
            ),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
        )

    def act(
        learner: LIIRState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return of.actor.act(
            learner.actor_params,
            key,
            actor_critic.normalize_obs(learner.obs_normalizer, obs),
            hidden_state,
            greedy,
        )

    def update(
        key: Array, learner: LIIRState, batch: Rollout
    ) -> tuple[LIIRState, dict[str, Array]]:
        return _update(of, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        minibatch.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(
        name, config, init, of.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _intrinsic_optimizer(config: LIIRConfig) -> minibatch.Optimizer:
    """The optimizer of η. The meta-gradient is many orders of magnitude shorter than the other
    gradients.
    """
    return minibatch.make_scale_free_optimizer(
        config.optimizer, config.intrinsic_eps, per_agent=not config.parameter_sharing
    )


def _update(
    of: LIIRNetworks, reward_type: str, key: Array, learner: LIIRState, batch: Rollout
) -> tuple[LIIRState, dict[str, Array]]:
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    data = ppo.to_policy_batch(steps)
    discount, last = steps.discount[..., None], steps.last[..., None]
    proxy_value, next_proxy_value, proxy_memory = of.proxy.values_and_bootstrap(
        learner.proxy_critic_params, learner.critic_hidden_states.proxy, steps
    )
    value, next_value, extrinsic_memory = of.extrinsic.values_and_bootstrap(
        learner.extrinsic_critic_params, learner.critic_hidden_states.extrinsic, steps
    )
    extrinsic = actor_critic.to_team_reward(reward_type, steps.reward)
    advantage = returns.generalized_advantage_estimation(
        extrinsic, value, next_value, discount, last, config.gamma, config.gae_lambda
    )
    r_in, reward_memories = of.reward.unroll(
        learner.intrinsic_params, learner.critic_hidden_states.reward, data, config.intrinsic_bound
    )
    given = AdvantageInputs(steps.reward, discount, last, proxy_value, next_proxy_value, advantage)
    minibatches = minibatch.SequenceBatch(
        (data, given, advantage + value), (batch.initial_hidden_state, learner.critic_hidden_states)
    )
    info = {
        "explained_variance": surrogates.explained_variance(
            value, advantage + value, data.obs.alive
        ),
    } | _intrinsic_metrics(r_in, data.obs.alive, config.intrinsic_bound)
    step = functools.partial(_step, of)
    learner, fit = minibatch.run_epochs(
        key, learner, minibatches, step, config.num_epochs, config.num_minibatches
    )
    hidden_state = HiddenStates(
        proxy_memory, extrinsic_memory, actor_critic.final_hidden_state(reward_memories, steps.last)
    )
    return learner._replace(
        critic_hidden_states=hidden_state,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), info | fit | minibatch.learning_rate_metric(learner.config, learner.env_steps)


def _intrinsic_metrics(r_in: Array, alive: Array, bound: Number) -> dict[str, Array]:
    """What one may look at of intrinsic rewards ``[T, B, N]``, per agent."""
    centre = running_statistics.masked_mean(r_in, alive, (0, 1))
    variance = running_statistics.masked_mean((r_in - centre[None, None]) ** 2, alive, (0, 1))
    saturated = (jnp.abs(r_in) > 0.95 * bound).astype(r_in.dtype)
    return {
        "intrinsic_reward_mean": centre,
        "intrinsic_reward_std": jnp.sqrt(variance),
        "saturation": running_statistics.masked_mean(saturated, alive),
    }


def _step(
    of: LIIRNetworks, learner: LIIRState, batch: minibatch.SequenceBatch
) -> tuple[LIIRState, dict[str, Array]]:
    """Policy, intrinsic reward and both critics, one step each, on one minibatch."""
    config, shared = learner.config, learner.config.parameter_sharing
    data, given, extrinsic_target = batch.steps
    policy_memory, hidden_state = batch.initial_states
    rates = config.lr, config.critic_lr, config.intrinsic_lr
    alpha, critic_lr, beta = (
        minibatch.linear_schedule(rate, learner.env_steps, config.lr_anneal_steps) for rate in rates
    )
    if config.normalize_advantages:
        ready = actor_critic.standardize_advantages(
            given.extrinsic_advantage, data.obs.alive, shared
        )
        given = given._replace(extrinsic_advantage=ready)
    moved = meta_step(
        of,
        config,
        learner.intrinsic_params,
        learner.actor_params,
        learner.actor_opt_state,
        data,
        given,
        (policy_memory, hidden_state.reward),
        alpha,
    )
    descend, climb = ppo.optimizer_of(config).step, _intrinsic_optimizer(config).step
    eta, reward_opt = climb(
        learner.intrinsic_params,
        learner.intrinsic_opt_state,
        moved.meta_gradient,
        beta,
        config.max_grad_norm,
    )
    reward_step = tree_math.norm(tree_math.add_scaled(-1.0, learner.intrinsic_params, eta))
    full_step = beta * jnp.sqrt(float(sum(x.size for x in jax.tree.leaves(eta))))
    proxy_target = moved.advantage + given.proxy_value
    proxy_loss, proxy_grads = jax.value_and_grad(ppo.value_loss)(
        learner.proxy_critic_params, of.proxy, data, hidden_state.proxy, proxy_target, shared
    )
    proxy, proxy_opt = descend(
        learner.proxy_critic_params,
        learner.proxy_critic_opt_state,
        proxy_grads,
        critic_lr,
        config.max_grad_norm,
    )
    loss, grads = jax.value_and_grad(ppo.value_loss)(
        learner.extrinsic_critic_params,
        of.extrinsic,
        data,
        hidden_state.extrinsic,
        extrinsic_target,
        shared,
    )
    extrinsic, extrinsic_opt = descend(
        learner.extrinsic_critic_params,
        learner.extrinsic_critic_opt_state,
        grads,
        critic_lr,
        config.max_grad_norm,
    )
    info = moved.info | {
        "proxy_value_loss": proxy_loss,
        "value_loss": loss,
        "critic_grad_norm": tree_math.norm(grads),
        "reward_net_update_norm": reward_step,
        "reward_step_share": jnp.where(
            full_step > 0, reward_step / jnp.where(full_step > 0, full_step, 1.0), 0.0
        ),
    }
    return learner._replace(
        actor_params=moved.actor_params,
        actor_opt_state=moved.actor_opt_state,
        intrinsic_params=eta,
        intrinsic_opt_state=reward_opt,
        proxy_critic_params=proxy,
        proxy_critic_opt_state=proxy_opt,
        extrinsic_critic_params=extrinsic,
        extrinsic_critic_opt_state=extrinsic_opt,
    ), info


def intrinsic_rewards(spec: EnvSpec, learner: LIIRState, obs: Observation, action: Array) -> Array:
    """What each agent's intrinsic reward says over one episode, ``[T, N]``.

    Args:
        spec: the environment's sizes.
        learner: of one seed, as `train` or a run leaves it.
        obs, action: of the steps of one episode, ``[T, ...]``, as `evaluate.make_play` gives them.
    """
    reward = make_liir_networks(spec, learner.config).reward
    obs, action = jax.tree.map(
        lambda x: x[:, None], (actor_critic.normalize_obs(learner.obs_normalizer, obs), action)
    )
    first = jnp.zeros(obs.alive.shape[:2], bool)
    data = ppo.PolicyBatch(obs, action, jnp.zeros(obs.alive.shape), first)
    r_in, _ = reward.unroll(
        learner.intrinsic_params,
        reward.net.init_hidden_state(1),
        data,
        learner.config.intrinsic_bound,
    )
    return r_in[:, 0]
