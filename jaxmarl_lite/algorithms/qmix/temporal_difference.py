"""QMIX's targets and loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import models
from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.networks import Parts, Weights
from jaxmarl_lite.algorithms.qmix.replay import Sequence
from jaxmarl_lite.types import Array, PyTree, Transition


def temporal_difference_loss(
    weights: Weights, of: Parts, target: Weights, data: Sequence, config: QMIXConfig
) -> tuple[Array, dict[str, Array]]:
    """The loss at the head of the package, on sequences ``[T, b, ...]``, and what one may look at."""
    steps, memory = data
    q, following = values(of, weights, steps, memory)
    taken = jnp.take_along_axis(q, steps.action[..., None], -1)[..., 0]
    estimate = of.mix(weights, steps.obs.state, taken * steps.obs.alive)
    goal = jax.lax.stop_gradient(targets(of, target, following, steps, memory, config))
    info = {"q_mean": estimate.mean(), "q_target_mean": goal.mean()}
    return ((estimate - goal) ** 2).mean(), info


def targets(
    of: Parts, target: Weights, following: Array, steps: Transition, memory: PyTree, config: QMIXConfig
) -> Array:
    """``r + γ d Q'_tot(s', ...)``, ``[T, b]``; ``following``: the live values of the successors, ``[T, b, N, A]``."""
    _, copied = values(of, target, steps, memory)
    choice = best(following if config.double_q else copied, steps.next_obs.mask)
    value = jnp.take_along_axis(copied, choice[..., None], -1)[..., 0]
    after = of.mix(target, steps.next_obs.state, value * steps.next_obs.alive)
    return steps.reward.mean(-1) + config.gamma * steps.discount * after


def values(of: Parts, weights: Weights, steps: Transition, memory: PyTree) -> tuple[Array, Array]:
    """The agents' values of each step and of its true successor, ``[T, b, N, A]``."""
    q, memories = of.net.unroll(weights.agents, memory, steps.obs.view, models.episode_starts(steps.last))
    following, _ = of.net.step(weights.agents, memories, steps.next_obs.view)
    return q, following


def best(q: Array, mask: Array) -> Array:
    """The best legal action of each agent, ``[..., A]`` to ``[...]``."""
    legal = mask | ~mask.any(-1, keepdims=True)
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), -1).astype(jnp.int32)
