"""Sequences that QMIX replays: pieces of rollouts, and the buffer that holds them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Network
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Rollout, Transition


class Sequence(NamedTuple):
    """Consecutive steps of one environment, as they are replayed.

    Attributes:
        steps: transitions ``[T, ...]``.
        hidden_state: the agents' hidden state before the first step; () when feed-forward.
    """

    steps: Transition
    hidden_state: PyTree


class SequenceSample(Protocol):
    """Sample of a replay buffer.

    Attributes:
        experience: sequences, with a leading batch axis on every leaf.
    """

    experience: Sequence


class ReplayBuffer(Protocol):
    """Replay buffer of sequences as pure functions, in the form that flashbax gives it.

    Attributes:
        init: ``(sequence) -> replay_state``, an empty buffer for sequences of this form.
        add: ``(replay_state, sequences) -> replay_state``.
        can_sample: ``(replay_state) -> []`` bool, whether the buffer holds a batch.
        sample: ``(replay_state, key) -> sample``.
    """

    init: Callable[[Sequence], PyTree]
    add: Callable[[PyTree, Sequence], PyTree]
    can_sample: Callable[[PyTree], Array]
    sample: Callable[[PyTree, Array], SequenceSample]


def import_flashbax(name: str) -> ModuleType:
    """Returns flashbax, the library of the replay buffer.

    Args:
        name: name of the algorithm, for the message.

    Returns:
        The module.

    Raises:
        ImportError: flashbax is missing; the message says what to install.
    """
    try:
        return importlib.import_module("flashbax")
    except ModuleNotFoundError as error:
        # a module that flashbax itself lacks is another fault
        if error.name != "flashbax":
            raise
        raise ImportError(
            f"algorithm {name!r} needs flashbax: install 'jaxmarl-lite[qmix]'"
        ) from None


def example_sequence(spec: EnvSpec, length: int, net: Network) -> Sequence:
    """Returns a sequence of zeros, which fixes the shapes and types of the buffer.

    Args:
        spec: the environment's sizes.
        length: T, the number of steps.
        net: the agents' network.

    Returns:
        The sequence.
    """
    float_dtype, n = jnp.result_type(float), spec.num_agents

    def zeros(*shape: int, dtype: DTypeLike = float_dtype) -> Array:
        return jnp.zeros((length, *shape), dtype)

    mask, alive = zeros(n, spec.action_size, dtype=bool), zeros(n, dtype=bool)
    obs = Observation(zeros(n, spec.obs_size), zeros(spec.global_state_size), mask, alive)
    steps = Transition(
        obs=obs,
        action=zeros(n, dtype=jnp.int32),
        log_prob=zeros(n),
        reward=zeros(n),
        cost=zeros(n, spec.num_costs),
        discount=zeros(),
        last=zeros(dtype=bool),
        next_obs=obs,
    )
    return Sequence(steps, tree_math.map_leaves(lambda x: x[0], net.init_hidden_state(1)))


def to_sequences(
    net: Network,
    params: PyTree,
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()],
    batch: Rollout,
    length: int,
) -> Sequence:
    """Returns a rollout as pieces of ``length`` steps with the hidden states at their starts.

    Args:
        net: the agents' network.
        params: its parameters, which make the hidden states.
        obs_normalizer: running moments of observations and global states, or ().
        batch: a rollout ``[T, B, ...]``; T is a multiple of ``length``.
        length: steps of one piece.

    Returns:
        The sequences, ``[B * T / length, length, ...]``; the pieces of one environment are
        neighbours, in the order of time. Observations are stored as the environment gave them.
    """
    steps = batch.transitions
    count = steps.last.shape[0] // length
    observations = actor_critic.normalize_obs(obs_normalizer, steps.obs).agents_view
    _, hidden_states = net.unroll(
        params,
        batch.initial_hidden_state,
        observations,
        actor_critic.is_first_step(steps.last),
    )

    def start_states(initial: Array, hidden_states: Array) -> Array:
        """``[B * count, ...]``: the hidden states at the starts; 0 after an episode end."""
        # Step k * length begins with the hidden state that step k * length - 1 ends with.
        starts = hidden_states[length - 1 : -1 : length]
        ended = steps.last[length - 1 : -1 : length]
        starts = tree_math.where(ended, jnp.zeros_like(starts), starts)
        return jnp.moveaxis(jnp.concatenate([initial[None], starts]), 0, 1).reshape(
            -1, *initial.shape[1:]
        )

    def split_time(x: Array) -> Array:
        batch_major = jnp.moveaxis(x, 0, 1)
        return batch_major.reshape(batch_major.shape[0] * count, length, *batch_major.shape[2:])

    return Sequence(
        tree_math.map_leaves(split_time, steps),
        tree_math.map_leaves(start_states, batch.initial_hidden_state, hidden_states),
    )
