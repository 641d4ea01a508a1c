"""What a critic says of a rollout: the advantage of a reward or a cost, and what the critic is to
be fitted to.
"""

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
    """What a rollout says of the policy that made it, ``[T, B, N]``, or ``[T, B, N, K]`` of
    costs.
    """

    advantage: Array  # in the unit of the signal
    target: Array  # of the critic, in the critic's unit
    hidden_state: PyTree  # the critic's after the rollout


def estimate_advantages(
    critic: actor_critic.Critic,
    phi: PyTree,
    hidden_state: PyTree,
    moments: Moments,
    steps: Transition,
    signal: Array,
    gamma: Number,
    gae_lambda: Number,
) -> tuple[AdvantageEstimate, Moments, Array]:
    """Generalised advantages and targets of a signal by its critic.

    Args:
        critic, phi, hidden_state: the critic, its weights, and its memory before the rollout.
        moments: of its targets.
        steps: the rollout as the networks see it.
        signal: ``[T, B, N]`` or ``[T, B, N, K]``, what is summed: the rewards or the costs of the
            steps. gamma, gae_lambda: see `ops.returns`.

    Returns: The estimate, the moments with these targets taken in, and the share of variance that
        the critic explains.
    """
    value, next_value, hidden_state = critic.values_and_bootstrap(phi, hidden_state, steps)
    if isinstance(moments, RunningStatistics):
        value, next_value = (
            running_statistics.denormalize(moments, v) for v in (value, next_value)
        )
    behind = tuple(range(2, signal.ndim))
    discount, last = (jnp.expand_dims(x, behind) for x in (steps.discount, steps.last))
    advantage = returns.generalized_advantage_estimation(
        signal, value, next_value, discount, last, gamma, gae_lambda
    )
    target = advantage + value
    explained = surrogates.explained_variance(
        value, target, actor_critic.expand_mask(steps.obs.alive, target)
    )
    if isinstance(moments, RunningStatistics):
        moments = running_statistics.update_running_statistics(moments, target)
        target = running_statistics.normalize(moments, target)
    return AdvantageEstimate(advantage, target, hidden_state), moments, explained
