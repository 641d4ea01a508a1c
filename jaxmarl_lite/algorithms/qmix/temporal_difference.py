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
    params: QMIXParams,
    networks: QMIXNetworks,
    target_params: QMIXParams,
    data: Sequence,
    config: QMIXConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss in the docstring of the package `qmix`.

    Args:
        params: parameters of the online networks.
        networks: the networks.
        target_params: parameters of the target networks.
        data: b sequences with normalized observations, time first: steps ``[T, b, ...]`` and hidden
            states ``[b, ...]``.
        config: settings; it reads ``gamma`` and ``double_q``.

    Returns:
        The loss, scalar, and the metrics ``q_mean`` and ``q_target_mean``, the means of Q_tot and
        of its targets.
    """
    steps, hidden_state = data
    q, next_q = agent_q_values(networks, params, steps, hidden_state)
    chosen_q = jnp.take_along_axis(q, steps.action[..., None], -1)[..., 0]
    # an agent that is not alive adds nothing: its value is 0
    q_total = networks.mix(params, steps.obs.global_state, chosen_q * steps.obs.alive)
    target = jax.lax.stop_gradient(
        targets(networks, target_params, next_q, steps, hidden_state, config)
    )
    info = {"q_mean": q_total.mean(), "q_target_mean": target.mean()}
    return ((q_total - target) ** 2).mean(), info


def targets(
    networks: QMIXNetworks,
    target_params: QMIXParams,
    next_q: Array,
    steps: Transition,
    hidden_state: PyTree,
    config: QMIXConfig,
) -> Array:
    """Computes the targets ``r + γ d Q'_tot(s', ...)``.

    r is the mean of the agents' rewards.

    Args:
        networks: the networks.
        target_params: parameters of the target networks.
        next_q: ``[T, b, N, A]``, the online networks' values of the true successors; they choose
            the actions with ``double_q``.
        steps: transitions ``[T, b, ...]`` with normalized observations.
        hidden_state: the agents' hidden state before the first step, ``[b, ...]``.
        config: settings; it reads ``gamma`` and ``double_q``.

    Returns:
        ``[T, b]``, in the unit of the discounted return.
    """
    _, next_target_q = agent_q_values(networks, target_params, steps, hidden_state)
    next_action = greedy_action(
        next_q if config.double_q else next_target_q, steps.next_obs.action_mask
    )
    value = jnp.take_along_axis(next_target_q, next_action[..., None], -1)[..., 0]
    next_q_total = networks.mix(
        target_params, steps.next_obs.global_state, value * steps.next_obs.alive
    )
    return steps.reward.mean(-1) + config.gamma * steps.discount * next_q_total


def agent_q_values(
    networks: QMIXNetworks, params: QMIXParams, steps: Transition, hidden_state: PyTree
) -> tuple[Array, Array]:
    """Computes the agents' values of every action in each step and in its true successor.

    Args:
        networks: the networks; it reads ``net``.
        params: parameters of all networks.
        steps: transitions ``[T, b, ...]`` with normalized observations.
        hidden_state: the agents' hidden state before the first step, ``[b, ...]``.

    Returns:
        The values of the steps and those of the successors, both ``[T, b, N, A]``.
    """
    q, hidden_states = networks.net.unroll(
        params.agents, hidden_state, steps.obs.agents_view, actor_critic.is_first_step(steps.last)
    )
    next_q, _ = networks.net.step(params.agents, hidden_states, steps.next_obs.agents_view)
    return q, next_q


def greedy_action(q: Array, mask: Array) -> Array:
    """Returns the best legal action of each agent.

    Args:
        q: ``[..., A]``, the values of the actions.
        mask: ``[..., A]`` bool, the legal actions; where none is legal, all count as legal.

    Returns:
        ``[...]`` int32.
    """
    legal = mask | ~mask.any(-1, keepdims=True)
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), -1).astype(jnp.int32)
