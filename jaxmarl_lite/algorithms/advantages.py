"""Advantages of a reward or a cost in a rollout, and the targets of its critic."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import returns, running_statistics, surrogates
from jaxmarl_lite.ops.running_statistics import RunningStatistics
from jaxmarl_lite.types import Array, Number, PyTree, Transition

Moments = RunningStatistics | tuple[()]
"""Running moments of the targets of a critic that predicts them standardized; () for one that does
not."""


class AdvantageEstimate(NamedTuple):
    """Advantages and critic targets of a rollout, ``[T, B, N]``, or ``[T, B, N, K]`` of costs.

    Attributes:
        advantage: advantages under the policy that made the rollout, in the unit of the signal.
        target: targets of the critic, in the critic's unit.
        hidden_state: the critic's hidden state after the rollout, ``[B, ...]``.
    """

    advantage: Array
    target: Array
    hidden_state: PyTree


def estimate_advantages(
    critic: actor_critic.Critic,
    critic_params: PyTree,
    hidden_state: PyTree,
    moments: Moments,
    steps: Transition,
    signal: Array,
    gamma: Number,
    gae_lambda: Number,
) -> tuple[AdvantageEstimate, Moments, Array]:
    """Computes generalized advantages and critic targets of a reward or of costs.

        target = advantage + value

    Args:
        critic: the critic of the signal.
        critic_params: the critic's weights.
        hidden_state: the critic's hidden state before the rollout, ``[B, ...]``.
        moments: running moments of the critic's targets, or ().
        steps: the rollout as the networks see it, ``[T, B, ...]``.
        signal: ``[T, B, N]`` rewards or ``[T, B, N, K]`` costs, the numbers that the critic sums.
        gamma: discount per step, 0 to 1.
        gae_lambda: mixing of n-step returns, 0 to 1; see `ops.returns`.

    Returns:
        The estimate, the moments with these targets merged in, and the share of the targets'
        variance that the critic explains, ``[]``.
    """
    value, next_value, hidden_state = critic.values_and_bootstrap(
        critic_params, hidden_state, steps
    )
    # A critic with moments predicts standardized values; advantages are in the signal's unit.
    if isinstance(moments, RunningStatistics):
        value, next_value = (
            running_statistics.denormalize(moments, v) for v in (value, next_value)
        )
    # The environment's flags are [T, B]; they broadcast over agents and costs.
    trailing_axes = tuple(range(2, signal.ndim))
    discount, last = (jnp.expand_dims(x, trailing_axes) for x in (steps.discount, steps.last))
    advantage = returns.generalized_advantage_estimation(
        signal, value, next_value, discount, last, gamma, gae_lambda
    )
    target = advantage + value
    explained = surrogates.explained_variance(
        value, target, actor_critic.expand_mask(steps.obs.alive, target)
    )
    if isinstance(moments, RunningStatistics):
        # Updated first, so that the targets are standardized by moments that include them.
        moments = running_statistics.update_running_statistics(moments, target)
        target = running_statistics.normalize(moments, target)
    return AdvantageEstimate(advantage, target, hidden_state), moments, explained
