"""QMIX as a learning algorithm: its state, what it does, and one update."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, minibatch
from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.networks import QMIXNetworks, QMIXParams, make_qmix_networks
from jaxmarl_lite.algorithms.qmix.replay import (
    Sequence,
    example_sequence,
    import_flashbax,
    to_sequences,
)
from jaxmarl_lite.algorithms.qmix.temporal_difference import greedy_action, temporal_difference_loss
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Number, Observation, PyTree, Rollout


class QMIXState(NamedTuple):
    """What QMIX carries from update to update."""

    config: QMIXConfig
    params: QMIXParams
    opt_state: PyTree
    target_params: QMIXParams
    replay_state: PyTree
    obs_normalizer: Any
    env_steps: Array  # [] environment steps
    num_updates: Array  # [] int


def make_qmix(name: str, spec: EnvSpec, config: QMIXConfig) -> Algorithm:
    """QMIX for an environment of these sizes.

    Raises:
        ValueError: for continuous actions. ImportError: without flashbax.
    """
    actor_critic.check_discrete(name, spec)
    of = make_qmix_networks(spec, config)
    buffer = import_flashbax(name).make_item_buffer(
        config.buffer_size, config.batch_size, config.batch_size, add_batches=True
    )

    def init(key: Array, num_envs: int, config: QMIXConfig = config) -> QMIXState:
        config = base_config.as_arrays(config)
        weights = of.init(key, spec)
        return QMIXState(
            config=config,
            params=weights,
            opt_state=_optimizer(config).init(weights),
            target_params=weights,
            replay_state=buffer.init(example_sequence(spec, config.sequence_length, of.net)),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: QMIXState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        q, hidden_state = of.net.step(
            learner.params.agents,
            hidden_state,
            actor_critic.normalize_obs(learner.obs_normalizer, obs).agents_view,
        )
        action = (
            greedy_action(q, obs.action_mask)
            if greedy
            else epsilon_greedy(
                key, q, obs.action_mask, epsilon_schedule(learner.config, learner.env_steps)
            )
        )
        return action, jnp.zeros(action.shape, q.dtype), hidden_state

    def update(
        key: Array, learner: QMIXState, batch: Rollout
    ) -> tuple[QMIXState, dict[str, Array]]:
        return _update(of, buffer, key, learner, batch)

    def check(num_envs: int, num_steps: int) -> None:
        check_sizes(config, num_envs, num_steps)

    def first_update(num_envs: int, num_steps: int) -> int:
        return math.ceil(config.batch_size / (num_envs * (num_steps // config.sequence_length)))

    return Algorithm(
        name, config, init, of.net.init_hidden_state, act, update, check, spec, first_update
    )


def check_sizes(config: QMIXConfig, num_envs: int, num_steps: int) -> None:
    """Raise ValueError for a rollout that does not fit the replay."""
    if num_steps % config.sequence_length:
        raise ValueError(
            f"num_steps is {num_steps} and sequence_length is {config.sequence_length}; allowed "
            "is a num_steps "
            "that is a multiple"
        )
    added = num_envs * (num_steps // config.sequence_length)
    if config.buffer_size < added:
        raise ValueError(
            f"QMIXConfig.buffer_size is {config.buffer_size}; allowed is {added}, a rollout, or "
            "more"
        )


def epsilon_schedule(config: QMIXConfig, seen: Array) -> Array:
    """The probability of a random action after ``seen`` environment steps."""
    share = jnp.where(config.epsilon_steps > 0, seen / jnp.maximum(config.epsilon_steps, 1.0), 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * jnp.clip(
        share, 0.0, 1.0
    )


def epsilon_greedy(key: Array, q: Array, mask: Array, epsilon: Number) -> Array:
    """The best legal action of each agent, or with probability ``epsilon`` any; ``[..., A]`` to
    ``[...]``.
    """
    coin_key, any_key = jax.random.split(key)
    anything = distributions.categorical(jnp.zeros_like(q), mask).sample(any_key)
    return jnp.where(
        jax.random.uniform(coin_key, q.shape[:-1]) < epsilon, anything, greedy_action(q, mask)
    )


def _optimizer(config: QMIXConfig) -> minibatch.Optimizer:
    """The optimizer of all weights, with the floats that the learner carries."""
    return minibatch.make_optimizer(config.optimizer, config.eps_root)


def _update(
    of: QMIXNetworks, buffer: Any, key: Array, learner: QMIXState, batch: Rollout
) -> tuple[QMIXState, dict[str, Array]]:
    """Put the rollout into the replay, and learn from what is drawn of it once there is a batch;
    zeros before.
    """
    config = learner.config
    pieces = to_sequences(of, learner.params, learner.obs_normalizer, batch, config.sequence_length)
    with jax.numpy_rank_promotion("allow"):  # flashbax's
        kept = buffer.add(learner.replay_state, pieces)
    ready = buffer.can_sample(kept)
    sight, seen = (
        actor_critic.update_obs_normalizer(learner.obs_normalizer, batch.transitions.obs),
        learner.env_steps + batch.transitions.last.size,
    )
    lr = minibatch.linear_schedule(config.lr, seen, config.lr_anneal_steps)

    def step(
        before: tuple[QMIXParams, PyTree], key: Array
    ) -> tuple[tuple[QMIXParams, PyTree], dict[str, Array]]:
        with jax.numpy_rank_promotion("allow"):
            drawn = buffer.sample(kept, key).experience
        (loss, info), grads = jax.value_and_grad(temporal_difference_loss, has_aux=True)(
            before[0], of, learner.target_params, _to_time_major(sight, drawn), config
        )
        after = _optimizer(config).step(*before, grads, lr, config.max_grad_norm)
        info |= {"value_loss": loss, "critic_grad_norm": tree_math.norm(grads)}
        return tree_math.where(ready, after, before), tree_math.where(
            ready, info, jax.tree.map(jnp.zeros_like, info)
        )

    keys = jax.random.split(key, config.gradient_steps)
    (weights, opt), info = jax.lax.scan(step, (learner.params, learner.opt_state), keys)
    updates = learner.num_updates + 1
    learner = learner._replace(
        params=weights,
        opt_state=opt,
        target_params=tree_math.where(
            updates % config.target_update_interval == 0, weights, learner.target_params
        ),
        replay_state=kept,
        obs_normalizer=sight,
        env_steps=seen,
        num_updates=updates,
    )
    info = jax.tree.map(lambda x: x.mean(0), info)
    info |= {"learning_rate": lr}
    return learner, info | {
        "epsilon": epsilon_schedule(config, seen),
        "gradient_steps": ready * float(keys.size),
    }


def _to_time_major(sight: actor_critic.ObsNormalizer | tuple[()], drawn: Any) -> Sequence:
    """Sequences as the networks take them: time first, seen through the running moments."""
    steps = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), drawn.steps)
    return Sequence(actor_critic.normalize_transitions(sight, steps), drawn.hidden_state)
