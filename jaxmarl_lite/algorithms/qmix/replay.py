"""What QMIX replays: pieces of rollouts."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.qmix.networks import QMIXNetworks, QMIXParams
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import Network
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Rollout, Transition


class Sequence(NamedTuple):
    """A rollout of one world, as it is replayed; leaves of ``steps`` are ``[T, ...]``."""

    steps: Transition
    hidden_state: PyTree


def import_flashbax(name: str) -> Any:
    """What keeps the replay; raises ImportError, saying what to install, where it is missing."""
    try:
        return importlib.import_module("flashbax")
    except ModuleNotFoundError as error:
        if error.name != "flashbax":
            raise
        raise ImportError(
            f"algorithm {name!r} needs flashbax: install 'jaxmarl-lite[qmix]'"
        ) from None


def example_sequence(spec: EnvSpec, length: int, net: Network) -> Sequence:
    """A sequence of zeros."""
    number, n = jnp.result_type(float), spec.num_agents

    def of(*shape: int, dtype: Any = number) -> Array:
        return jnp.zeros((length, *shape), dtype)

    mask, alive = of(n, spec.action_size, dtype=bool), of(n, dtype=bool)
    obs = Observation(of(n, spec.obs_size), of(spec.global_state_size), mask, alive)
    steps = Transition(
        obs, of(n, dtype=jnp.int32), of(n), of(n), of(n, spec.num_costs), of(), of(dtype=bool), obs
    )
    return Sequence(steps, jax.tree.map(lambda x: x[0], net.init_hidden_state(1)))


def to_sequences(
    of: QMIXNetworks,
    weights: QMIXParams,
    sight: actor_critic.ObsNormalizer | tuple[()],
    batch: Rollout,
    length: int,
) -> Sequence:
    """A rollout as pieces of ``length`` steps, ``[B * T/length, length, ...]``, with the memory at
    each one's start.
    """
    steps = batch.transitions
    count = steps.last.shape[0] // length
    views = actor_critic.normalize_obs(sight, steps.obs).agents_view
    _, hidden_states = of.net.unroll(
        weights.agents, batch.initial_hidden_state, views, actor_critic.is_first_step(steps.last)
    )

    def starts(first: Array, after: Array) -> Array:
        """``[B * count, ...]``: the memory before every sequence; zero where an episode has just
        ended.
        """
        before = after[length - 1 : -1 : length]
        ended = steps.last[length - 1 : -1 : length]
        before = tree_math.where(ended, jnp.zeros_like(before), before)
        return jnp.moveaxis(jnp.concatenate([first[None], before]), 0, 1).reshape(
            -1, *first.shape[1:]
        )

    def cut(x: Array) -> Array:
        moved = jnp.moveaxis(x, 0, 1)
        return moved.reshape(moved.shape[0] * count, length, *moved.shape[2:])

    return Sequence(
        jax.tree.map(cut, steps), jax.tree.map(starts, batch.initial_hidden_state, hidden_states)
    )
