"""QMIX as a learning algorithm: its state, its exploration, and its update."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, minibatch
from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.networks import QMIXNetworks, QMIXParams, make_qmix_networks
from jaxmarl_lite.algorithms.qmix.replay import (
    ReplayBuffer,
    Sequence,
    example_sequence,
    import_flashbax,
    to_sequences,
)
from jaxmarl_lite.algorithms.qmix.temporal_difference import greedy_action, temporal_difference_loss
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Number, Observation, PyTree, Rollout


class QMIXState(NamedTuple):
    """State of a QMIX learner, carried from update to update.

    Attributes:
        config: the config with its floats as arrays.
        params: parameters of the online networks.
        opt_state: state of the optimizer.
        target_params: parameters of the target networks.
        replay_state: contents of the replay buffer.
        obs_normalizer: running moments of observations and global states, or ().
        env_steps: ``[]``, environment steps so far.
        num_updates: ``[]`` int, updates so far.
    """

    config: QMIXConfig
    params: QMIXParams
    opt_state: PyTree
    target_params: QMIXParams
    replay_state: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    env_steps: Array
    num_updates: Array


def make_qmix(name: str, spec: EnvSpec, config: QMIXConfig) -> Algorithm:
    """Returns QMIX, or VDN, for one environment.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.

    Returns:
        The algorithm, whose learner's state is a `QMIXState`.

    Raises:
        ValueError: the environment has continuous actions.
        ImportError: flashbax is missing.
    """
    actor_critic.check_discrete(name, spec)
    networks = make_qmix_networks(spec, config)
    buffer: ReplayBuffer = import_flashbax(name).make_item_buffer(
        config.buffer_size, config.batch_size, config.batch_size, add_batches=True
    )

    def init(key: Array, num_envs: int, config: QMIXConfig = config) -> QMIXState:
        config = base_config.as_arrays(config)
        params = networks.init(key, spec)
        return QMIXState(
            config=config,
            params=params,
            opt_state=_optimizer(config).init(params),
            target_params=params,
            replay_state=buffer.init(example_sequence(spec, config.sequence_length, networks.net)),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: QMIXState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        q, hidden_state = networks.net.step(
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
        # no update of QMIX reads log-probabilities
        return action, jnp.zeros(action.shape, q.dtype), hidden_state

    def update(
        key: Array, learner: QMIXState, batch: Rollout
    ) -> tuple[QMIXState, dict[str, Array]]:
        return _update(networks, buffer, key, learner, batch)

    def check(num_envs: int, num_steps: int) -> None:
        check_sizes(config, num_envs, num_steps)

    def first_learning_update(num_envs: int, num_steps: int) -> int:
        return math.ceil(config.batch_size / (num_envs * (num_steps // config.sequence_length)))

    return Algorithm(
        name,
        config,
        init,
        networks.net.init_hidden_state,
        act,
        update,
        check,
        spec,
        first_learning_update,
    )


def check_sizes(config: QMIXConfig, num_envs: int, num_steps: int) -> None:
    """Checks that a rollout fits the replay buffer.

    Args:
        config: settings; it reads ``sequence_length`` and ``buffer_size``.
        num_envs: B, the number of environments.
        num_steps: T, the number of steps of a rollout.

    Raises:
        ValueError: the rollout is not a whole number of sequences, or it is larger than the buffer.
    """
    if num_steps % config.sequence_length:
        raise ValueError(
            f"num_steps is {num_steps} and sequence_length is {config.sequence_length}; allowed "
            "is a num_steps "
            "that is a multiple"
        )
    num_sequences = num_envs * (num_steps // config.sequence_length)
    if config.buffer_size < num_sequences:
        raise ValueError(
            f"QMIXConfig.buffer_size is {config.buffer_size}; allowed is {num_sequences}, a "
            "rollout, or more"
        )


def epsilon_schedule(config: QMIXConfig, env_steps: Array) -> Array:
    """Computes the probability of a random action, linear in environment steps.

    Args:
        config: settings; it reads ``epsilon_start``, ``epsilon_end`` and ``epsilon_steps``.
        env_steps: environment steps so far, any shape.

    Returns:
        The probability, with the shape of ``env_steps``.
    """
    share = jnp.where(
        config.epsilon_steps > 0, env_steps / jnp.maximum(config.epsilon_steps, 1.0), 1.0
    )
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * jnp.clip(
        share, 0.0, 1.0
    )


def epsilon_greedy(key: Array, q: Array, mask: Array, epsilon: Number) -> Array:
    """Returns each agent's best legal action, or with probability ``epsilon`` any of them.

    Args:
        key: typed PRNG key.
        q: ``[..., A]``, the values of the actions.
        mask: ``[..., A]`` bool, the legal actions.
        epsilon: probability of a uniformly drawn action, 0 to 1; each agent draws on its own.

    Returns:
        ``[...]`` int.
    """
    coin_key, any_key = jax.random.split(key)
    random_action = distributions.categorical(jnp.zeros_like(q), mask).sample(any_key)
    return jnp.where(
        jax.random.uniform(coin_key, q.shape[:-1]) < epsilon, random_action, greedy_action(q, mask)
    )


def _optimizer(config: QMIXConfig) -> minibatch.Optimizer:
    """Returns the optimizer of all parameters, with the floats that the learner carries."""
    return minibatch.make_optimizer(config.optimizer, config.eps_root)


def _update(
    networks: QMIXNetworks, buffer: ReplayBuffer, key: Array, learner: QMIXState, batch: Rollout
) -> tuple[QMIXState, dict[str, Array]]:
    """Stores a rollout, and learns from sampled batches once the buffer holds one batch.

    Until then the parameters stay and the metrics of the gradient steps are 0.
    """
    config = learner.config
    # The stored hidden states come from the moments of observations that the rollout acted with.
    sequences = to_sequences(
        networks, learner.params, learner.obs_normalizer, batch, config.sequence_length
    )
    with jax.numpy_rank_promotion("allow"):  # flashbax promotes ranks
        replay_state = buffer.add(learner.replay_state, sequences)
    can_learn = buffer.can_sample(replay_state)
    obs_normalizer = actor_critic.update_obs_normalizer(
        learner.obs_normalizer, batch.transitions.obs
    )
    env_steps = learner.env_steps + batch.transitions.last.size
    lr = minibatch.linear_schedule(config.lr, env_steps, config.lr_anneal_steps)

    def step(
        carry: tuple[QMIXParams, PyTree], key: Array
    ) -> tuple[tuple[QMIXParams, PyTree], dict[str, Array]]:
        with jax.numpy_rank_promotion("allow"):
            sampled = buffer.sample(replay_state, key).experience
        (loss, info), grads = jax_types.value_and_grad(temporal_difference_loss, has_aux=True)(
            carry[0],
            networks,
            learner.target_params,
            _to_time_major(obs_normalizer, sampled),
            config,
        )
        new_carry = _optimizer(config).step(*carry, grads, lr, config.max_grad_norm)
        info |= {"value_loss": loss, "critic_grad_norm": tree_math.norm(grads)}
        # `where` and not `cond`: the step is computed from an unfilled buffer too, and discarded.
        return tree_math.where(can_learn, new_carry, carry), tree_math.where(
            can_learn, info, tree_math.map_leaves(jnp.zeros_like, info)
        )

    keys = jax.random.split(key, config.gradient_steps)
    (params, opt_state), info = jax.lax.scan(step, (learner.params, learner.opt_state), keys)
    num_updates = learner.num_updates + 1
    learner = learner._replace(
        params=params,
        opt_state=opt_state,
        target_params=tree_math.where(
            num_updates % config.target_update_interval == 0, params, learner.target_params
        ),
        replay_state=replay_state,
        obs_normalizer=obs_normalizer,
        env_steps=env_steps,
        num_updates=num_updates,
    )
    info = tree_math.map_leaves(lambda x: x.mean(0), info)
    info |= {"learning_rate": lr}
    return learner, info | {
        "epsilon": epsilon_schedule(config, env_steps),
        "gradient_steps": can_learn * float(keys.size),
    }


def _to_time_major(
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()], sequences: Sequence
) -> Sequence:
    """Returns sequences as the networks take them: time first, observations normalized."""
    steps = tree_math.map_leaves(lambda x: jnp.moveaxis(x, 0, 1), sequences.steps)
    return Sequence(
        actor_critic.normalize_transitions(obs_normalizer, steps), sequences.hidden_state
    )
