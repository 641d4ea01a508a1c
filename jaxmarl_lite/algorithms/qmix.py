"""QMIX: values of agents that are mixed to one of the team, learned from a replay.

    L = E[ ( r + γ d Q'_tot(s', q'_1, ..., q'_N) - Q_tot(s, q_1(o_1, u_1), ..., q_N(o_N, u_N)) )² ]

Rashid et al. 2018, equations 5 and 6. Q_tot is `maths.mixing.mix`, whose weights hypernetworks make from the state; it
grows with every q_i, so that each agent's own best action is the team's. The primes are a copy of the networks, made
every ``target_interval`` updates; with ``double_q`` (van Hasselt et al. 2016) it values what the live networks would
do. ``mixer="vdn"`` adds the values up instead.

What is replayed are ``sequence`` steps of one world, with the memory at their start (the "stored state" of Kapturowski
et al. 2019), so that they need not be an episode. The reward is the mean over the agents of what they receive. Agents
that are out of play add nothing. Actions are drawn uniformly with a probability that falls from ``epsilon_start`` to
``epsilon_end``, else they are the best.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import coma, configs, fitting, models
from jaxmarl_lite.maths import mixing, trees
from jaxmarl_lite.nets import distributions
from jaxmarl_lite.nets.actor_critic import Network, NetworkSpec, network, orthogonal
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Observation, PyTree, Transition


@configs.config_record
class QMIXConfig:
    """Settings of QMIX."""

    lr: float = 5e-4
    """Learning rate."""
    anneal_steps: float = 0.0
    """Environment steps over which the learning rate falls linearly to 0; 0 keeps it constant."""
    gamma: float = 0.99
    """Discount per step."""
    max_grad_norm: float = 10.0
    """Longest gradient."""
    eps_root: float = 1e-12
    """Added to the optimiser's second moment under its root."""
    optimiser: Literal["adam", "rmsprop", "sgd"] = "adam"
    """Rule of the gradient steps."""
    epsilon_start: float = 1.0
    """Probability of a random action at first."""
    epsilon_end: float = 0.05
    """Probability of a random action in the end."""
    epsilon_steps: float = 50_000.0
    """Environment steps over which it falls, linearly."""
    mixer: Literal["qmix", "vdn"] = "qmix"
    """How the agents' values become the team's."""
    mixer_size: int = 32
    """Width of the mixer's hidden layer."""
    hypernet_size: int = 64
    """Width of the hidden layer of the networks that make the mixer's weights."""
    double_q: bool = True
    """Let the live networks choose the next actions, and their copy value them."""
    target_interval: int = 20
    """Updates between two copies of the networks into those that make the targets."""
    sequence: int = 32
    """Steps of one world that are replayed together; a rollout has so many, or a multiple of it."""
    replay_size: int = 2048
    """Sequences that the replay holds."""
    replay_batch: int = 32
    """Sequences in a gradient step."""
    steps_per_update: int = 4
    """Gradient steps after each rollout, each on a batch of its own."""
    share_weights: bool = True
    """One set of weights for all agents, or one each."""
    memory: Literal["none", "gru"] = "gru"
    """Whether the agents remember the episode."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the dense layers."""
    memory_size: int = 64
    """Width of the memory."""
    activation: Literal["relu", "tanh"] = "relu"
    """What follows each dense layer."""
    normalise_view: bool = False
    """Standardise views and states by their running moments."""

    def __post_init__(self) -> None:
        configs.check_range(
            self, lr=(0, 10), anneal_steps=(0, 1e15), gamma=(0, 1), max_grad_norm=(1e-6, 1e9), eps_root=(0, 1),
            epsilon_start=(0, 1), epsilon_end=(0, 1), epsilon_steps=(0, 1e15),
        )  # fmt: skip
        configs.check_whole(
            self, mixer_size=1, hypernet_size=1, target_interval=1, sequence=1, replay_size=1, replay_batch=1,
            steps_per_update=1, memory_size=1,
        )  # fmt: skip
        configs.check_choice(
            self, optimiser=("adam", "rmsprop", "sgd"), mixer=("qmix", "vdn"), memory=("none", "gru"),
            activation=("relu", "tanh"),
        )  # fmt: skip
        configs.check_widths(self, "hidden")
        if self.replay_size < self.replay_batch:
            raise ValueError(
                f"QMIXConfig.replay_size is {self.replay_size}; allowed is replay_batch, {self.replay_batch}, or more"
            )

    @property
    def form(self) -> NetworkSpec:
        """The form of the agents' networks."""
        return NetworkSpec(self.hidden, self.activation, self.memory, self.memory_size)


class Weights(NamedTuple):
    """Everything that is learned."""

    agents: PyTree
    mixer: PyTree  # () for VDN


class QMIXState(NamedTuple):
    """What QMIX carries from update to update."""

    config: QMIXConfig
    weights: Weights
    opt: PyTree
    target: Weights
    replay: PyTree
    sight: Any
    seen: Array  # [] environment steps
    updates: Array  # [] int


class Sequence(NamedTuple):
    """A rollout of one world, as it is replayed; leaves of ``steps`` are ``[T, ...]``."""

    steps: Transition
    memory: PyTree


class Hypernetworks(nn.Module):
    """The mixer of every state ``[..., S]``."""

    agents: int
    width: int
    hidden: int

    @nn.compact
    def __call__(self, state: Array) -> mixing.Mixer:
        dense = functools.partial(nn.Dense, param_dtype=jnp.result_type(float))

        def two(name: str, hidden: int, size: int) -> Array:
            inner = dense(hidden, kernel_init=orthogonal(2.0**0.5), name=name)(state)
            return dense(size, name=f"{name}_out")(nn.relu(inner))

        w1 = two("w1", self.hidden, self.agents * self.width).reshape(*state.shape[:-1], self.agents, self.width)
        b1, b2 = dense(self.width, name="b1")(state), two("b2", self.width, 1)[..., 0]
        return mixing.Mixer(w1, b1, two("w2", self.hidden, self.width), b2)


class Parts(NamedTuple):
    """QMIX's networks, for an environment's sizes."""

    net: Network
    hyper: Hypernetworks | None

    def mix(self, weights: Weights, state: Array, q: Array) -> Array:
        """Q_tot ``[...]`` of the agents' values ``[..., N]``."""
        if self.hyper is None:
            return mixing.total(q)
        return mixing.mix(self.hyper.apply({"params": weights.mixer}, state), q)  # type: ignore[arg-type]


def make(name: str, spec: EnvSpec, config: QMIXConfig) -> Algorithm:
    """QMIX for an environment of these sizes.

    Raises:
        ValueError: for continuous actions. ImportError: without flashbax.
    """
    coma.check_discrete(name, spec)
    shared = config.share_weights
    net = network(config.form, spec.view_size, spec.action_size, agents=spec.num_agents, shared=shared)
    hyper = None if config.mixer == "vdn" else Hypernetworks(spec.num_agents, config.mixer_size, config.hypernet_size)
    of, rule = Parts(net, hyper), fitting.optimiser(config.optimiser, config.eps_root)
    replay = _flashbax(name).make_item_buffer(
        config.replay_size, config.replay_batch, config.replay_batch, add_batches=True
    )

    def init(key: Array, num_envs: int, config: QMIXConfig = config) -> QMIXState:
        config = configs.as_arrays(config)
        agents_key, mixer_key = jax.random.split(key)
        states = jnp.zeros((1, spec.state_size), jnp.result_type(float))
        mixer = () if of.hyper is None else of.hyper.init(mixer_key, states)["params"]
        weights = Weights(net.init(agents_key), mixer)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), _form(spec, config, net))
        return QMIXState(
            config=config,
            weights=weights,
            opt=rule.init(weights),
            target=weights,
            replay=replay.init(blank),
            sight=models.initial_sight(spec, config.normalise_view),
            seen=jnp.zeros((), jnp.result_type(float)),
            updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: QMIXState, key: Array, obs: Observation, memory: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        q, memory = net.step(learner.weights.agents, memory, models.through(learner.sight, obs).view)
        best = _best(q, obs.mask)
        if greedy:
            return best, jnp.zeros(best.shape, q.dtype), memory
        coin_key, any_key = jax.random.split(key)
        anything = distributions.categorical(jnp.zeros_like(q), obs.mask).sample(any_key)
        epsilon = exploration(learner.config, learner.seen)
        chance = jax.random.uniform(coin_key, best.shape) < epsilon
        return jnp.where(chance, anything, best), jnp.zeros(best.shape, q.dtype), memory

    def update(key: Array, learner: QMIXState, batch: Batch) -> tuple[QMIXState, dict[str, Array]]:
        return _update(of, replay, rule, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        if num_steps % config.sequence:
            raise ValueError(
                f"num_steps is {num_steps} and sequence is {config.sequence}; allowed is a num_steps that is a multiple"
            )
        added = num_envs * (num_steps // config.sequence)
        if config.replay_size < added:
            raise ValueError(f"QMIXConfig.replay_size is {config.replay_size}; allowed is {added}, a rollout, or more")

    return Algorithm(name, config, init, net.initial_memory, act, update, check_sizes, spec)


def _flashbax(name: str) -> Any:
    """What keeps the replay; raises ImportError, saying what to install, where it is missing."""
    try:
        return importlib.import_module("flashbax")
    except ModuleNotFoundError as error:
        if error.name != "flashbax":
            raise
        raise ImportError(f"algorithm {name!r} needs flashbax: install 'jaxmarl-lite[qmix]'") from None


def exploration(config: QMIXConfig, seen: Array) -> Array:
    """The probability of a random action after ``seen`` environment steps."""
    share = jnp.where(config.epsilon_steps > 0, seen / jnp.maximum(config.epsilon_steps, 1.0), 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * jnp.clip(share, 0.0, 1.0)


def _best(q: Array, mask: Array) -> Array:
    """The best legal action of each agent, ``[..., A]`` to ``[...]``."""
    legal = mask | ~mask.any(-1, keepdims=True)
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), -1).astype(jnp.int32)


def _form(spec: EnvSpec, config: QMIXConfig, net: Network) -> Sequence:
    """Shapes and dtypes of a sequence."""
    number, n = jnp.result_type(float), spec.num_agents

    def of(*shape: int, dtype: Any = number) -> Any:
        return jax.ShapeDtypeStruct((config.sequence, *shape), dtype)

    mask, alive = of(n, spec.action_size, dtype=bool), of(n, dtype=bool)
    obs = Observation(of(n, spec.view_size), of(spec.state_size), mask, alive)
    steps = Transition(
        obs, of(n, dtype=jnp.int32), of(n), of(n), of(n, spec.num_costs), of(), of(dtype=bool), obs
    )
    memory = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), net.initial_memory(1))
    return Sequence(steps, memory)


def _sequences(of: Parts, learner: QMIXState, batch: Batch) -> Sequence:
    """A rollout as sequences, ``[B * T/sequence, sequence, ...]``, with the memory at each one's start."""
    length, steps = learner.config.sequence, batch.steps
    count = steps.last.shape[0] // length
    views = models.through(learner.sight, steps.obs).view
    _, memories = of.net.unroll(learner.weights.agents, batch.memory, views, models.episode_starts(steps.last))

    def starts(first: Array, after: Array) -> Array:
        """``[B * count, ...]``: the memory before every sequence; zero where an episode has just ended."""
        before = after[length - 1 : -1 : length]
        ended = steps.last[length - 1 : -1 : length]
        before = trees.select(ended, jnp.zeros_like(before), before)
        return jnp.moveaxis(jnp.concatenate([first[None], before]), 0, 1).reshape(-1, *first.shape[1:])

    def cut(x: Array) -> Array:
        moved = jnp.moveaxis(x, 0, 1)
        return moved.reshape(moved.shape[0] * count, length, *moved.shape[2:])

    return Sequence(jax.tree.map(cut, steps), jax.tree.map(starts, batch.memory, memories))


def _update(
    of: Parts, replay: Any, rule: fitting.Optimiser, key: Array, learner: QMIXState, batch: Batch
) -> tuple[QMIXState, dict[str, Array]]:
    """Put the rollout into the replay, and learn from what is drawn of it once there is a batch."""
    config = learner.config
    with jax.numpy_rank_promotion("allow"):  # flashbax's
        kept = replay.add(learner.replay, _sequences(of, learner, batch))
    learner = learner._replace(
        replay=kept,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
        updates=learner.updates + 1,
    )

    def step(learner: QMIXState, key: Array) -> tuple[QMIXState, dict[str, Array]]:
        with jax.numpy_rank_promotion("allow"):
            drawn = replay.sample(learner.replay, key).experience
        (loss, info), grads = jax.value_and_grad(temporal_difference_loss, has_aux=True)(
            learner.weights, of, learner.target, _ready(learner, drawn), config
        )
        lr = fitting.annealed(config.lr, learner.seen, config.anneal_steps)
        weights, opt = rule.step(learner.weights, learner.opt, grads, lr, config.max_grad_norm)
        moved = trees.select(replay.can_sample(learner.replay), (weights, opt), (learner.weights, learner.opt))
        info |= {"value_loss": loss, "critic_grad_norm": trees.norm(grads)}
        return learner._replace(weights=moved[0], opt=moved[1]), info

    learner, info = jax.lax.scan(step, learner, jax.random.split(key, config.steps_per_update))
    renewed = trees.select(learner.updates % config.target_interval == 0, learner.weights, learner.target)
    info = jax.tree.map(lambda x: x.mean(0), info) | {"epsilon": exploration(config, learner.seen)}
    return learner._replace(target=renewed), info


def _ready(learner: QMIXState, drawn: Any) -> Sequence:
    """Sequences as the networks take them: time first, seen through the running moments."""
    steps = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), drawn.steps)
    return Sequence(models.seen_through(learner.sight, steps), drawn.memory)


def temporal_difference_loss(
    weights: Weights, of: Parts, target: Weights, data: Sequence, config: QMIXConfig
) -> tuple[Array, dict[str, Array]]:
    """The loss at the head of this file, on sequences ``[T, b, ...]``, and what one may look at."""
    steps, memory = data
    q, following = _values(of, weights, steps, memory)
    taken = jnp.take_along_axis(q, steps.action[..., None], -1)[..., 0]
    estimate = of.mix(weights, steps.obs.state, taken * steps.obs.alive)
    goal = jax.lax.stop_gradient(targets(of, target, following, steps, memory, config))
    info = {"q_mean": estimate.mean(), "q_target_mean": goal.mean()}
    return ((estimate - goal) ** 2).mean(), info


def targets(
    of: Parts, target: Weights, following: Array, steps: Transition, memory: PyTree, config: QMIXConfig
) -> Array:
    """``r + γ d Q'_tot(s', ...)``, ``[T, b]``; ``following``: the live values of the successors, ``[T, b, N, A]``."""
    _, copied = _values(of, target, steps, memory)
    best = _best(following if config.double_q else copied, steps.next_obs.mask)
    value = jnp.take_along_axis(copied, best[..., None], -1)[..., 0]
    after = of.mix(target, steps.next_obs.state, value * steps.next_obs.alive)
    return steps.reward.mean(-1) + config.gamma * steps.discount * after


def _values(of: Parts, weights: Weights, steps: Transition, memory: PyTree) -> tuple[Array, Array]:
    """The agents' values of each step and of its true successor, ``[T, b, N, A]``."""
    q, memories = of.net.unroll(weights.agents, memory, steps.obs.view, models.episode_starts(steps.last))
    following, _ = of.net.step(weights.agents, memories, steps.next_obs.view)
    return q, following
