"""QMIX's targets and loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.networks import QMIXNetworks, QMIXParams
from jaxmarl_lite.algorithms.qmix.replay import Sequence
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import Array, PyTree, Transition


def temporal_difference_loss(
    weights: QMIXParams, of: QMIXNetworks, target: QMIXParams, data: Sequence, config: QMIXConfig
) -> tuple[Array, dict[str, Array]]:
    """The loss at the head of the package, on sequences ``[T, b, ...]``, and what one may look
    at.
    """
    steps, hidden_state = data
    q, following = agent_q_values(of, weights, steps, hidden_state)
    taken = jnp.take_along_axis(q, steps.action[..., None], -1)[..., 0]
    estimate = of.mix(weights, steps.obs.global_state, taken * steps.obs.alive)
    goal = jax.lax.stop_gradient(targets(of, target, following, steps, hidden_state, config))
    info = {"q_mean": estimate.mean(), "q_target_mean": goal.mean()}
    return ((estimate - goal) ** 2).mean(), info


def targets(
    of: QMIXNetworks,
    target: QMIXParams,
    following: Array,
    steps: Transition,
    hidden_state: PyTree,
    config: QMIXConfig,
) -> Array:
    """``r + γ d Q'_tot(s', ...)``, ``[T, b]``; ``following``: the live values of the successors,
    ``[T, b, N, A]``.
    """
    _, copied = agent_q_values(of, target, steps, hidden_state)
    choice = greedy_action(following if config.double_q else copied, steps.next_obs.action_mask)
    value = jnp.take_along_axis(copied, choice[..., None], -1)[..., 0]
    after = of.mix(target, steps.next_obs.global_state, value * steps.next_obs.alive)
    return steps.reward.mean(-1) + config.gamma * steps.discount * after


def agent_q_values(
    of: QMIXNetworks, weights: QMIXParams, steps: Transition, hidden_state: PyTree
) -> tuple[Array, Array]:
    """The agents' values of each step and of its true successor, ``[T, b, N, A]``."""
    q, hidden_states = of.net.unroll(
        weights.agents, hidden_state, steps.obs.agents_view, actor_critic.is_first_step(steps.last)
    )
    following, _ = of.net.step(weights.agents, hidden_states, steps.next_obs.agents_view)
    return q, following


def greedy_action(q: Array, mask: Array) -> Array:
    """The best legal action of each agent, ``[..., A]`` to ``[...]``."""
    legal = mask | ~mask.any(-1, keepdims=True)
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), -1).astype(jnp.int32)
