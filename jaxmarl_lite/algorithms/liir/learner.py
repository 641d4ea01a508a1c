"""LIIR as a learning algorithm: its state, one update, and what its reward says."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, fitting, models, ppo
from jaxmarl_lite.algorithms.liir.config import LIIRConfig
from jaxmarl_lite.algorithms.liir.meta_gradient import Parts, Returns, meta_step, parts
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import returns, surrogates, trees
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Number, Observation, PyTree


class Memories(NamedTuple):
    """Memories of the three networks that the rollout does not run, ``[B, ...]``."""

    proxy: PyTree
    extrinsic: PyTree
    reward: PyTree


class LIIRState(NamedTuple):
    """What LIIR carries from update to update."""

    config: LIIRConfig
    policy: PyTree  # θ
    policy_opt: PyTree
    reward: PyTree  # η
    reward_opt: PyTree
    proxy: PyTree
    proxy_opt: PyTree
    extrinsic: PyTree
    extrinsic_opt: PyTree
    memory: Memories
    sight: Any
    seen: Array  # [] environment steps


def make(name: str, spec: EnvSpec, config: LIIRConfig) -> Algorithm:
    """LIIR for an environment of these sizes; the config's static fields decide the networks."""
    of = parts(spec, config)

    def init(key: Array, num_envs: int, config: LIIRConfig = config) -> LIIRState:
        config = configs.as_arrays(config)
        keys = jax.random.split(key, 4)
        nets = (of.actor.net, of.proxy.net, of.extrinsic.net)
        theta, proxy, extrinsic = (net.init(key) for net, key in zip(nets, (keys[0], *keys[2:]), strict=True))
        eta = of.reward.init(keys[1], config.reward_init)
        start = ppo.rule(config).init
        return LIIRState(
            config=config,
            policy=theta,
            policy_opt=start(theta),
            reward=eta,
            reward_opt=_reward_optimizer(config).init(eta),
            proxy=proxy,
            proxy_opt=start(proxy),
            extrinsic=extrinsic,
            extrinsic_opt=start(extrinsic),
            memory=Memories(*(net.initial_memory(num_envs) for net in (nets[1], nets[2], of.reward.net))),
            sight=models.initial_sight(spec, config.normalise_view),
            seen=jnp.zeros((), jnp.result_type(float)),
        )

    def act(
        learner: LIIRState, key: Array, obs: Observation, memory: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return of.actor.act(learner.policy, key, models.through(learner.sight, obs), memory, greedy)

    def update(key: Array, learner: LIIRState, batch: Batch) -> tuple[LIIRState, dict[str, Array]]:
        return _update(of, spec.reward_kind, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        fitting.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(name, config, init, of.actor.net.initial_memory, act, update, check_sizes, spec)


def _reward_optimizer(config: LIIRConfig) -> fitting.Optimiser:
    """The optimizer of η. The meta-gradient is many orders of magnitude shorter than the other gradients."""
    return fitting.scale_free_optimizer(config.optimiser, config.reward_eps, per_agent=not config.share_weights)


def _update(
    of: Parts, reward_kind: str, key: Array, learner: LIIRState, batch: Batch
) -> tuple[LIIRState, dict[str, Array]]:
    config = learner.config
    steps = models.seen_through(learner.sight, batch.steps)
    data = ppo.policy_data(steps)
    discount, last = steps.discount[..., None], steps.last[..., None]
    proxy_value, next_proxy_value, proxy_memory = of.proxy.evaluate(learner.proxy, learner.memory.proxy, steps)
    value, next_value, extrinsic_memory = of.extrinsic.evaluate(learner.extrinsic, learner.memory.extrinsic, steps)
    extrinsic = models.team_reward(reward_kind, steps.reward)
    advantage = returns.generalised_advantage(
        extrinsic, value, next_value, discount, last, config.gamma, config.gae_lambda
    )
    r_in, reward_memories = of.reward.unroll(learner.reward, learner.memory.reward, data, config.reward_bound)
    given = Returns(steps.reward, discount, last, proxy_value, next_proxy_value, advantage)
    minibatches = fitting.Sequences((data, given, advantage + value), (batch.memory, learner.memory))
    info = {
        "explained_variance": surrogates.explained_variance(value, advantage + value, data.obs.alive),
    } | _of_rewards(r_in, data.obs.alive, config.reward_bound)
    step = functools.partial(_step, of)
    learner, fit = fitting.epochs(key, learner, minibatches, step, config.epochs, config.num_minibatches)
    memory = Memories(proxy_memory, extrinsic_memory, models.carried(reward_memories, steps.last))
    return learner._replace(
        memory=memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | fit | fitting.rate_info(learner.config, learner.seen)


def _of_rewards(r_in: Array, alive: Array, bound: Number) -> dict[str, Array]:
    """What one may look at of intrinsic rewards ``[T, B, N]``, per agent."""
    centre = moments_of.masked_mean(r_in, alive, (0, 1))
    variance = moments_of.masked_mean((r_in - centre[None, None]) ** 2, alive, (0, 1))
    saturated = (jnp.abs(r_in) > 0.95 * bound).astype(r_in.dtype)
    return {
        "intrinsic_reward_mean": centre,
        "intrinsic_reward_std": jnp.sqrt(variance),
        "saturation": moments_of.masked_mean(saturated, alive),
    }


def _step(of: Parts, learner: LIIRState, batch: fitting.Sequences) -> tuple[LIIRState, dict[str, Array]]:
    """Policy, intrinsic reward and both critics, one step each, on one minibatch."""
    config, shared = learner.config, learner.config.share_weights
    data, given, extrinsic_target = batch.steps
    policy_memory, memory = batch.starts
    rates = config.lr, config.critic_lr, config.reward_lr
    alpha, critic_lr, beta = (fitting.annealed(rate, learner.seen, config.anneal_steps) for rate in rates)
    if config.normalise_advantage:
        ready = models.standardised(given.extrinsic_advantage, data.obs.alive, shared)
        given = given._replace(extrinsic_advantage=ready)
    moved = meta_step(
        of,
        config,
        learner.reward,
        learner.policy,
        learner.policy_opt,
        data,
        given,
        (policy_memory, memory.reward),
        alpha,
    )
    descend, climb = ppo.rule(config).step, _reward_optimizer(config).step
    eta, reward_opt = climb(learner.reward, learner.reward_opt, moved.meta_gradient, beta, config.max_grad_norm)
    reward_step = trees.norm(trees.axpy(-1.0, learner.reward, eta))
    full_step = beta * jnp.sqrt(float(sum(x.size for x in jax.tree.leaves(eta))))
    proxy_target = moved.advantage + given.proxy_value
    proxy_loss, proxy_grads = jax.value_and_grad(ppo.value_loss)(
        learner.proxy, of.proxy, data, memory.proxy, proxy_target, shared
    )
    proxy, proxy_opt = descend(learner.proxy, learner.proxy_opt, proxy_grads, critic_lr, config.max_grad_norm)
    loss, grads = jax.value_and_grad(ppo.value_loss)(
        learner.extrinsic, of.extrinsic, data, memory.extrinsic, extrinsic_target, shared
    )
    extrinsic, extrinsic_opt = descend(learner.extrinsic, learner.extrinsic_opt, grads, critic_lr, config.max_grad_norm)
    info = moved.info | {
        "proxy_value_loss": proxy_loss,
        "value_loss": loss,
        "critic_grad_norm": trees.norm(grads),
        "reward_net_update_norm": reward_step,
        "reward_step_share": jnp.where(full_step > 0, reward_step / jnp.where(full_step > 0, full_step, 1.0), 0.0),
    }
    return learner._replace(
        policy=moved.policy,
        policy_opt=moved.policy_opt,
        reward=eta,
        reward_opt=reward_opt,
        proxy=proxy,
        proxy_opt=proxy_opt,
        extrinsic=extrinsic,
        extrinsic_opt=extrinsic_opt,
    ), info


def intrinsic_rewards(spec: EnvSpec, learner: LIIRState, obs: Observation, action: Array) -> Array:
    """What each agent's intrinsic reward says over one episode, ``[T, N]``.

    Args:
        spec: the environment's sizes.
        learner: of one seed, as `train` or a run leaves it.
        obs, action: of the steps of one episode, ``[T, ...]``, as `evaluate.make_play` gives them.
    """
    reward = parts(spec, learner.config).reward
    obs, action = jax.tree.map(lambda x: x[:, None], (models.through(learner.sight, obs), action))
    first = jnp.zeros(obs.alive.shape[:2], bool)
    data = ppo.PolicyData(obs, action, jnp.zeros(obs.alive.shape), first)
    r_in, _ = reward.unroll(learner.reward, reward.net.initial_memory(1), data, learner.config.reward_bound)
    return r_in[:, 0]
