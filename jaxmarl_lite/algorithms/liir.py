"""LIIR: each agent learns an intrinsic reward that serves the team's return (Du et al., NeurIPS 2019).

    r_proxy_i = r_ex + λ r_in_i(o_i, u_i; η)                                   the proxy reward
    θ'        = θ + α ∇_θ E[ log π_θ(u_i|o_i) A_proxy_i ]                      eq. 6, the inner step
    ∇_η J_ex  = ∇_η θ' · ∇_θ' J_ex                                             eq. 7, the chain rule
    ∇_θ' J_ex = ∇_θ' E[ π_θ'(u_i|o_i) / π_θ(u_i|o_i) · A_ex ]                  eq. 8, re-using the samples
    ∇_η θ'    = α λ ∇_θ log π_θ(u_i|o_i) ∇_η r_in_i(o_i, u_i; η)               eq. 9

Where this departs from the paper:
  - the inner step is PPO's (`ppo.policy_loss`), which with one epoch of one minibatch is equation 6; each of its
    minibatch steps is followed by an outer step through it;
  - `meta_gradient="exact"`, the default, carries η through the whole return, its standardisation, and the real
    optimiser. Equation 9 keeps the immediate reward alone: that is `"immediate"`;
  - `"official"` is what the authors' program computes (one scalar for all samples, with its sign), for comparison.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, fitting, models, ppo
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import returns, surrogates, trees
from jaxmarl_lite.nets.actor_critic import Network, network
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Number, Observation, PyTree


@configs.config_record
class LIIRConfig(ppo.ActorCriticConfig):
    """Settings of LIIR: those of PPO's policy step, and those of the learned reward."""

    lam: float = 0.01
    """λ, the weight of the intrinsic reward in the proxy reward; 0 is learning without it."""
    reward_lr: float = 5e-4
    """β, the learning rate of the intrinsic reward."""
    reward_bound: float = 10.0
    """Bound b of the intrinsic reward, b tanh(x/b)."""
    meta_gradient: Literal["exact", "immediate", "official"] = "exact"
    """What carries η: the whole return, the immediate reward (equation 9), or the authors' one scalar."""
    meta_ratio: Literal["agent", "joint"] = "agent"
    """Importance ratio of the outer step: each agent's own (equation 8), or the product over the team."""
    extrinsic_view: Literal["own", "state"] = "state"
    """What the extrinsic critic sees; `critic_view` is the proxy critics'."""

    def __post_init__(self) -> None:
        ppo.check(self)
        configs.check_range(self, lam=(0, 1e6), reward_lr=(0, 10), reward_bound=(1e-6, 1e6))
        configs.check_choice(
            self,
            meta_gradient=("exact", "immediate", "official"),
            meta_ratio=("agent", "joint"),
            extrinsic_view=("own", "state"),
        )
        if self.optimiser != "sgd" and isinstance(self.eps_root, (int, float)) and self.eps_root <= 0:
            raise ValueError(
                f"LIIRConfig.eps_root is {self.eps_root!r} with optimiser {self.optimiser!r}; allowed is a positive "
                "number, because the meta-gradient through this optimiser is NaN where a gradient is zero (or use sgd)"
            )


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


class Returns(NamedTuple):
    """What advantages are made of, and the extrinsic ones ready made; ``[T, b, N]`` or ``[T, b, 1]``."""

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

    def unroll(
        self, eta: PyTree, memory: PyTree, data: ppo.PolicyData, bound: Number
    ) -> tuple[Array, PyTree]:
        """``b tanh(x/b)``, in ``[T, b, N]``, and the memory after each step."""
        view, action = data.obs.view, data.action
        if self.discrete:
            out, memories = self.net.unroll(eta, memory, view, data.first)
            raw = jnp.take_along_axis(out, action[..., None], -1)[..., 0]
        else:
            action = jnp.where(data.obs.mask, action, 0.0)
            out, memories = self.net.unroll(eta, memory, jnp.concatenate([view, action], -1), data.first)
            raw = out[..., 0]
        return bound * jnp.tanh(raw / bound), memories


class Parts(NamedTuple):
    """LIIR's networks and optimisers, for an environment's sizes."""

    actor: models.Actor
    reward: IntrinsicReward
    proxy: models.Critic
    extrinsic: models.Critic


def parts(spec: EnvSpec, config: LIIRConfig) -> Parts:
    """The networks that the config's static fields describe."""
    shared, discrete = config.share_weights, spec.action_kind == "discrete"
    inputs = spec.view_size if discrete else spec.view_size + spec.action_size
    outputs = spec.action_size if discrete else 1
    # A head near zero: learning begins as it would without an intrinsic reward.
    net = network(config.form, inputs, outputs, agents=spec.num_agents, shared=shared, head_scale=0.01)
    return Parts(
        models.actor(spec, config.form, shared),
        IntrinsicReward(net, discrete),
        models.critic(spec, config.form, config.critic_view, shared),
        models.critic(spec, config.form, config.extrinsic_view, shared),
    )


def rule(config: LIIRConfig) -> fitting.Optimiser:
    """The optimiser of every part of LIIR."""
    return fitting.optimiser(config.optimiser, config.eps_root, per_agent=not config.share_weights)


def proxy_advantage(
    eta: PyTree, reward: IntrinsicReward, data: ppo.PolicyData, memory: PyTree, given: Returns, config: LIIRConfig
) -> tuple[Array, tuple[Array, Array]]:
    """A_proxy as the policy step takes it, then as it is in the unit of reward, and r_in; all ``[T, b, N]``."""
    r_in, _ = reward.unroll(eta, memory, data, config.reward_bound)
    carrying = jax.lax.stop_gradient(r_in) if config.meta_gradient == "immediate" else r_in
    raw = returns.generalised_advantage(
        given.reward + config.lam * carrying,
        given.proxy_value,
        given.next_proxy_value,
        given.discount,
        given.last,
        config.gamma,
        config.gae_lambda,
    )
    if config.meta_gradient == "immediate":  # equal in value; η enters through r_in of the same moment only
        raw = raw + config.lam * (r_in - carrying)
    ready = models.standardised(raw, data.obs.alive, config.share_weights) if config.normalise_advantage else raw
    return ready, (raw, r_in)


def extrinsic_loss(
    theta: PyTree, actor: models.Actor, data: ppo.PolicyData, memory: PyTree, advantage: Array, config: LIIRConfig
) -> Array:
    """-J_ex at the policy ``theta``, by importance weights over the old samples (equation 8). Scalar."""
    pi = actor.unroll(theta, memory, data.obs, data.first)
    log_ratio = pi.log_prob(data.action) - data.log_prob
    if config.meta_ratio == "joint" or config.meta_gradient == "official":
        log_ratio = jnp.broadcast_to((log_ratio * data.obs.alive).sum(-1, keepdims=True), log_ratio.shape)
    return -models.agent_mean(jnp.exp(log_ratio) * advantage, data.obs.alive, config.share_weights)


class MetaStep(NamedTuple):
    """The policy after an inner step, and how the intrinsic reward should move."""

    policy: PyTree
    policy_opt: PyTree
    meta_gradient: PyTree  # of -J_ex with respect to η
    advantage: Array  # A_proxy in the unit of reward, [T, b, N]
    intrinsic: Array  # r_in, [T, b, N]
    info: dict[str, Array]


def meta_step(
    of: Parts,
    config: LIIRConfig,
    eta: PyTree,
    theta: PyTree,
    theta_opt: PyTree,
    data: ppo.PolicyData,
    given: Returns,
    memory: tuple[PyTree, PyTree],
    alpha: Number,
) -> MetaStep:
    """One inner step, and the gradient of the extrinsic objective after it with respect to η.

    The chain rule of equation 7 is taken factor by factor, backwards, along

        η  ->  A_proxy  ->  g = ∇_θ loss  ->  θ' = optimiser(θ, g)  ->  -J_ex(θ')

    Pulling a vector back through the second factor costs one more pass forward through the policy: g depends
    on A_proxy linearly, and no second derivative by θ is needed.

    Args:
        of: the networks.
        config: settings.
        eta, theta, theta_opt: weights of the intrinsic reward and of the policy, and the policy's optimiser.
        data, given: a minibatch.
        memory: memories of policy and intrinsic reward at its start.
        alpha: α, the policy's learning rate.
    """
    policy_memory, reward_memory = memory
    advantage, pull_advantage, (raw, r_in) = jax.vjp(
        lambda eta: proxy_advantage(eta, of.reward, data, reward_memory, given, config), eta, has_aux=True
    )

    def loss(theta: PyTree, advantage: Array) -> tuple[Array, dict[str, Array]]:
        return ppo.policy_loss(theta, of.actor, data, policy_memory, advantage, config)

    def policy_gradient(advantage: Array) -> tuple[PyTree, Any]:
        found, grads = jax.value_and_grad(loss, has_aux=True)(theta, advantage)
        return grads, found

    grads, pull_gradient, (value, info) = jax.vjp(policy_gradient, advantage, has_aux=True)
    new_theta, pull_step, new_opt = jax.vjp(
        lambda g: rule(config).step(theta, theta_opt, g, alpha, config.max_grad_norm), grads, has_aux=True
    )
    extrinsic_grads = jax.grad(extrinsic_loss)(
        new_theta, of.actor, data, policy_memory, given.extrinsic_advantage, config
    )
    if config.meta_gradient == "official":
        meta = official_gradient(of, config, eta, theta, data, given, memory, trees.scale(-1.0, extrinsic_grads))
    else:
        # weight[t, b, i]: how much -J_ex(θ') grows with the advantage of that agent's sample
        (weight,) = pull_gradient(*pull_step(extrinsic_grads))
        (meta,) = pull_advantage(weight)
    info |= {
        "policy_loss": value,
        "policy_grad_norm": trees.norm(grads),
        "meta_gradient_norm": trees.norm(meta),
        "proxy_extrinsic_cosine": trees.cosine(grads, extrinsic_grads),
    }
    return MetaStep(new_theta, new_opt, meta, raw, r_in, info)


def official_gradient(
    of: Parts,
    config: LIIRConfig,
    eta: PyTree,
    theta: PyTree,
    data: ppo.PolicyData,
    given: Returns,
    memory: tuple[PyTree, PyTree],
    g2: PyTree,
) -> PyTree:
    """What the authors' program descends along: s ∇_η E[R_proxy], with one scalar s = ⟨∇_θ E[log π_θ], g2⟩.

    ``g2`` is the gradient of J_ex at the new policy, by the joint ratio. The scalar has expectation near zero,
    because the mean score has, and its sign is the authors'.
    """
    policy_memory, reward_memory = memory
    alive = data.obs.alive

    def mean_log_prob(theta: PyTree) -> Array:
        pi = of.actor.unroll(theta, policy_memory, data.obs, data.first)
        return moments_of.masked_mean(pi.log_prob(data.action), alive)

    def mean_return(eta: PyTree) -> Array:
        _, (raw, _) = proxy_advantage(eta, of.reward, data, reward_memory, given, config)
        return moments_of.masked_mean(raw, alive)

    return trees.scale(trees.dot(jax.grad(mean_log_prob)(theta), g2), jax.grad(mean_return)(eta))


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


def make(name: str, spec: EnvSpec, config: LIIRConfig) -> Algorithm:
    """LIIR for an environment of these sizes; the config's static fields decide the networks."""
    of = parts(spec, config)

    def init(key: Array, num_envs: int, config: LIIRConfig = config) -> LIIRState:
        config = configs.as_arrays(config)
        keys = jax.random.split(key, 4)
        nets = (of.actor.net, of.reward.net, of.proxy.net, of.extrinsic.net)
        theta, eta, proxy, extrinsic = (net.init(key) for net, key in zip(nets, keys, strict=True))
        start = rule(config).init
        return LIIRState(
            config=config,
            policy=theta,
            policy_opt=start(theta),
            reward=eta,
            reward_opt=start(eta),
            proxy=proxy,
            proxy_opt=start(proxy),
            extrinsic=extrinsic,
            extrinsic_opt=start(extrinsic),
            memory=Memories(*(net.initial_memory(num_envs) for net in (nets[2], nets[3], nets[1]))),
            sight=models.initial_sight(spec, config.normalise_view),
            seen=jnp.zeros((), jnp.result_type(float)),
        )

    def act(
        learner: LIIRState, key: Array, obs: Observation, memory: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return of.actor.act(learner.policy, key, models.through(learner.sight, obs), memory, greedy)

    def step(learner: LIIRState, batch: fitting.Sequences) -> tuple[LIIRState, dict[str, Array]]:
        return _step(of, learner, batch)

    def update(key: Array, learner: LIIRState, batch: Batch) -> tuple[LIIRState, dict[str, Array]]:
        config = learner.config
        steps = batch.steps._replace(
            obs=models.through(learner.sight, batch.steps.obs),
            next_obs=models.through(learner.sight, batch.steps.next_obs),
        )
        data = ppo.policy_data(steps)
        discount, last = steps.discount[..., None], steps.last[..., None]
        proxy_value, next_proxy_value, proxy_memory = of.proxy.evaluate(learner.proxy, learner.memory.proxy, steps)
        value, next_value, extrinsic_memory = of.extrinsic.evaluate(learner.extrinsic, learner.memory.extrinsic, steps)
        advantage = returns.generalised_advantage(
            steps.reward, value, next_value, discount, last, config.gamma, config.gae_lambda
        )
        r_in, reward_memories = of.reward.unroll(learner.reward, learner.memory.reward, data, config.reward_bound)
        centre = moments_of.masked_mean(r_in, data.obs.alive, (0, 1))
        given = Returns(steps.reward, discount, last, proxy_value, next_proxy_value, advantage)
        minibatches = fitting.Sequences((data, given, advantage + value), (batch.memory, learner.memory))
        info = {
            "explained_variance": surrogates.explained_variance(value, advantage + value, data.obs.alive),
            "intrinsic_reward_mean": centre,
            "intrinsic_reward_std": jnp.sqrt(
                moments_of.masked_mean((r_in - centre[None, None]) ** 2, data.obs.alive, (0, 1))
            ),
            "saturation": moments_of.masked_mean(
                (jnp.abs(r_in) > 0.95 * config.reward_bound).astype(r_in.dtype), data.obs.alive
            ),
        }
        learner, fit = fitting.epochs(key, learner, minibatches, step, config.epochs, config.num_minibatches)
        memory = Memories(proxy_memory, extrinsic_memory, models.carried(reward_memories, steps.last))
        return learner._replace(
            memory=memory,
            sight=models.widen(learner.sight, batch.steps.obs),
            seen=learner.seen + batch.steps.last.size,
        ), info | fit

    def check_sizes(num_envs: int, num_steps: int) -> None:
        fitting.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(name, config, init, of.actor.net.initial_memory, act, update, check_sizes)


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
    descend = rule(config).step
    eta, reward_opt = descend(learner.reward, learner.reward_opt, moved.meta_gradient, beta, config.max_grad_norm)
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
        "reward_net_update_norm": trees.norm(trees.axpy(-1.0, learner.reward, eta)),
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
