"""QMIX as a learning algorithm: its state, what it does, and one update."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, fitting, models
from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.networks import Parts, Weights, parts
from jaxmarl_lite.algorithms.qmix.replay import Sequence, blank, flashbax, sequences
from jaxmarl_lite.algorithms.qmix.temporal_difference import best, temporal_difference_loss
from jaxmarl_lite.maths import trees
from jaxmarl_lite.nets import distributions
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, Number, Observation, PyTree


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


def make(name: str, spec: EnvSpec, config: QMIXConfig) -> Algorithm:
    """QMIX for an environment of these sizes.

    Raises:
        ValueError: for continuous actions. ImportError: without flashbax.
    """
    models.check_discrete(name, spec)
    of = parts(spec, config)
    buffer = flashbax(name).make_item_buffer(
        config.replay_size, config.replay_batch, config.replay_batch, add_batches=True
    )

    def init(key: Array, num_envs: int, config: QMIXConfig = config) -> QMIXState:
        config = configs.as_arrays(config)
        weights = of.init(key, spec)
        return QMIXState(
            config=config,
            weights=weights,
            opt=_optimizer(config).init(weights),
            target=weights,
            replay=buffer.init(blank(spec, config.sequence, of.net)),
            sight=models.initial_sight(spec, config.normalise_view),
            seen=jnp.zeros((), jnp.result_type(float)),
            updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: QMIXState, key: Array, obs: Observation, memory: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        q, memory = of.net.step(learner.weights.agents, memory, models.through(learner.sight, obs).view)
        action = best(q, obs.mask) if greedy else explore(key, q, obs.mask, exploration(learner.config, learner.seen))
        return action, jnp.zeros(action.shape, q.dtype), memory

    def update(key: Array, learner: QMIXState, batch: Batch) -> tuple[QMIXState, dict[str, Array]]:
        return _update(of, buffer, key, learner, batch)

    def check(num_envs: int, num_steps: int) -> None:
        check_sizes(config, num_envs, num_steps)

    def first_update(num_envs: int, num_steps: int) -> int:
        return math.ceil(config.replay_batch / (num_envs * (num_steps // config.sequence)))

    return Algorithm(name, config, init, of.net.initial_memory, act, update, check, spec, first_update)


def check_sizes(config: QMIXConfig, num_envs: int, num_steps: int) -> None:
    """Raise ValueError for a rollout that does not fit the replay."""
    if num_steps % config.sequence:
        raise ValueError(
            f"num_steps is {num_steps} and sequence is {config.sequence}; allowed is a num_steps that is a multiple"
        )
    added = num_envs * (num_steps // config.sequence)
    if config.replay_size < added:
        raise ValueError(f"QMIXConfig.replay_size is {config.replay_size}; allowed is {added}, a rollout, or more")


def exploration(config: QMIXConfig, seen: Array) -> Array:
    """The probability of a random action after ``seen`` environment steps."""
    share = jnp.where(config.epsilon_steps > 0, seen / jnp.maximum(config.epsilon_steps, 1.0), 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * jnp.clip(share, 0.0, 1.0)


def explore(key: Array, q: Array, mask: Array, epsilon: Number) -> Array:
    """The best legal action of each agent, or with probability ``epsilon`` any; ``[..., A]`` to ``[...]``."""
    coin_key, any_key = jax.random.split(key)
    anything = distributions.categorical(jnp.zeros_like(q), mask).sample(any_key)
    return jnp.where(jax.random.uniform(coin_key, q.shape[:-1]) < epsilon, anything, best(q, mask))


def _optimizer(config: QMIXConfig) -> fitting.Optimiser:
    """The optimizer of all weights, with the floats that the learner carries."""
    return fitting.optimiser(config.optimiser, config.eps_root)


def _update(
    of: Parts, buffer: Any, key: Array, learner: QMIXState, batch: Batch
) -> tuple[QMIXState, dict[str, Array]]:
    """Put the rollout into the replay, and learn from what is drawn of it once there is a batch; zeros before."""
    config = learner.config
    pieces = sequences(of, learner.weights, learner.sight, batch, config.sequence)
    with jax.numpy_rank_promotion("allow"):  # flashbax's
        kept = buffer.add(learner.replay, pieces)
    ready = buffer.can_sample(kept)
    sight, seen = models.widen(learner.sight, batch.steps.obs), learner.seen + batch.steps.last.size
    lr = fitting.annealed(config.lr, seen, config.anneal_steps)

    def step(before: tuple[Weights, PyTree], key: Array) -> tuple[tuple[Weights, PyTree], dict[str, Array]]:
        with jax.numpy_rank_promotion("allow"):
            drawn = buffer.sample(kept, key).experience
        (loss, info), grads = jax.value_and_grad(temporal_difference_loss, has_aux=True)(
            before[0], of, learner.target, _ready(sight, drawn), config
        )
        after = _optimizer(config).step(*before, grads, lr, config.max_grad_norm)
        info |= {"value_loss": loss, "critic_grad_norm": trees.norm(grads)}
        return trees.select(ready, after, before), trees.select(ready, info, jax.tree.map(jnp.zeros_like, info))

    keys = jax.random.split(key, config.steps_per_update)
    (weights, opt), info = jax.lax.scan(step, (learner.weights, learner.opt), keys)
    updates = learner.updates + 1
    learner = learner._replace(
        weights=weights,
        opt=opt,
        target=trees.select(updates % config.target_interval == 0, weights, learner.target),
        replay=kept,
        sight=sight,
        seen=seen,
        updates=updates,
    )
    info = jax.tree.map(lambda x: x.mean(0), info)
    info |= {"learning_rate": lr}
    return learner, info | {"epsilon": exploration(config, seen), "gradient_steps": ready * float(keys.size)}


def _ready(sight: models.Sight | tuple[()], drawn: Any) -> Sequence:
    """Sequences as the networks take them: time first, seen through the running moments."""
    steps = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), drawn.steps)
    return Sequence(models.seen_through(sight, steps), drawn.memory)
