"""Meaning of every reported number, one sentence with its unit each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

METRICS: dict[str, str] = {
    # results of the agents
    "episode_return": "Undiscounted return per episode, mean over the episodes that ended in the "
    "rollout, in reward units.",
    "episodes": "Episodes that ended in the rollout (a count); the first wait until every "
    "environment has ended one.",
    "non_finite_episodes": "Episodes of the rollout that ended because the environment's own "
    "numbers were not finite (a count).",
    "episode_length": "Mean length of the episodes that ended in the rollout, in environment "
    "steps.",
    "win_rate": "Share of the episodes that ended in the rollout that were won, 0 to 1.",
    "eval_win_rate": "Share of the evaluation episodes that were won, 0 to 1.",
    "eval_return": "Mean undiscounted team return per episode of the policy in separate episodes, "
    "in reward units.",
    "episode_cost": "Undiscounted cost per episode, one number per agent and cost, mean over the "
    "episodes that ended.",
    "eval_cost": "Mean undiscounted cost per evaluation episode, one number per agent and cost.",
    "eval_satisfaction_rate": "Share of evaluation episodes whose cost is at or under the limit, "
    "per agent and cost, 0 to 1.",
    "num_violations": "Updates so far whose episodes cost more than the limit on average, per "
    "agent and cost (a count).",
    "updates_with_cost": "Updates so far in which episodes ended, so that their cost is known (a "
    "count).",
    "violation_rate": "Share of the updates since the last row, of those with ended episodes, that "
    "broke the limit.",
    "eval_episode_length": "Mean length of the evaluation episodes, in environment steps.",
    # speed
    "steps_per_second": "Environment steps per second of wall-clock time, all environments and "
    "seeds together.",
    "elapsed_seconds": "Wall-clock time since the run began, compilation left out, in seconds.",
    # policy and critics
    "policy_loss": "Loss of the policy's surrogate objective, mean over minibatches (the reward's "
    "scale).",
    "value_loss": "Squared error of the critic against its return targets, mean over minibatches "
    "(squared return).",
    "entropy": "Mean entropy of the policy per agent and step, in nats.",
    "approx_kl": "Estimated divergence of the updated policy from the one that acted, per agent "
    "and step, in nats.",
    "clip_fraction": "Share of samples whose probability ratio lay outside the clip range, 0 to 1.",
    "policy_grad_norm": "Euclidean norm of the policy's gradient before clipping, mean over "
    "minibatches.",
    "critic_grad_norm": "Euclidean norm of the critic's gradient before clipping, mean over "
    "minibatches.",
    "explained_variance": "Share of the variance of the returns that the critic explains; 1 is "
    "perfect, 0 a constant.",
    "learning_rate": "Learning rate in use, annealed: the policy's, or of a step in a trust region "
    "the critic's.",
    # values of actions
    "epsilon": "Probability of a random action, 0 to 1.",
    "gradient_steps": "Gradient steps of an update: none before the replay has a batch, and losses "
    "are then 0.",
    "q_mean": "Mean value of the team's actions in what was replayed, in reward units.",
    "q_target_mean": "Mean of the targets that those values are fitted to, in reward units.",
    # agents updated in turn
    "update_order": "Place of the agent in the order of the update, from 0; its mean over updates "
    "where several are reported.",
    "ratio_product_mean": "Mean product of the probability ratios of the agents updated before "
    "this one (about 1).",
    # steps in a trust region
    "kl": "Mean divergence of the agent's new policy from the one that acted, in nats; 0 where no "
    "step was taken.",
    "surrogate_improvement": "Growth of the agent's reward surrogate by its step (standardized "
    "advantage).",
    "expected_improvement": "Growth of the reward surrogate that its gradient promises for the "
    "whole step.",
    "line_search_success": "1 when the line search accepted a step, else 0; a mean is the share of "
    "accepted steps.",
    "line_search_step_size": "Share of the whole step that the line search took; 0 when it took "
    "none.",
    "line_search_steps": "Tries of the line search (a count).",
    "cg_residual": "Relative residual that conjugate gradients left, the worst of the right-hand "
    "sides.",
    "cg_iters": "Iterations of conjugate gradients (a count).",
    "curvature_positive": "1 when every curvature met by conjugate gradients was positive, else 0 "
    "and no step.",
    "case_infeasible": "Share of steps for which no step in the trust region met the limits; such "
    "a step breaks them least.",
    "case_recoverable": "Share of steps that found a limit broken and could meet it inside the "
    "trust region.",
    "case_constrained": "Share of steps whose trust region was cut by a limit that is kept.",
    "case_unconstrained": "Share of steps whose whole trust region keeps the limits.",
    "case_zero_cost_gradient": "Share of steps for which no cost had a gradient, as while all "
    "costs are zero.",
    "cost_surrogate_change": "Growth of each cost surrogate by the step, in cost per environment "
    "step.",
    "cost_dual": "Multiplier of each limit that the step implies (surrogate per cost per step).",
    # limits on costs
    "cost_violation": "Mean cost J of the latest episodes, or the upper end of its interval, less "
    "the limit; until J is known 0 or more.",
    "has_cost_estimate": "1 once every environment has finished an episode, so that the cost is "
    "known, else 0.",
    "cost_pessimism": "Share of the most that a step can promise of the cost that is not counted "
    "on, 0 to 1.",
    "episode_cost_error": "Standard error of the mean cost J, in cost per episode.",
    "cost_value_loss": "Squared error of the cost critics against their targets (squared cost).",
    "cost_critic_grad_norm": "Euclidean norm of the cost critics' gradient before clipping, mean "
    "over minibatches.",
    "cost_explained_variance": "Share of the variance of the sums of costs that their critics "
    "explain; 1 is perfect.",
    "lagrange_multiplier": "Lagrange multiplier of each agent's each cost, in reward per cost.",
    # learned rewards
    "intrinsic_reward_mean": "Mean of the learned intrinsic reward per step, one number per agent "
    "(dimensionless).",
    "intrinsic_reward_std": "Standard deviation of the learned intrinsic reward over steps, one "
    "number per agent.",
    "meta_gradient_norm": "Norm (Euclidean) of the extrinsic objective's gradient by the intrinsic "
    "reward's weights.",
    "proxy_extrinsic_cosine": "Cosine between the policy gradients by proxy and by extrinsic "
    "advantage, -1 to 1.",
    "intrinsic_saturation": "Share of intrinsic rewards whose size is beyond 95 % of their bound, "
    "0 to 1.",
    "intrinsic_step_share": "Root mean square step of the intrinsic reward's weights, as a share "
    "of intrinsic_lr.",
    "intrinsic_update_norm": "Euclidean norm of the step that the intrinsic reward's weights took.",
    "proxy_value_loss": "Squared error of the critics of the proxy return, mean over agents "
    "(squared return).",
    # health
    "is_finite": "1 while every number learned, or given by the environment, is finite; 0 from the "
    "update on in which one is not.",
    "reward_is_finite": "1 when every reward and cost of the rollout was finite, else 0.",
    "env_faults": "Which of the environment's numbers were not finite, as a sum: 1 agents_view, 2 "
    "global_state, 4 reward, 8 cost, 16 discount; 32 is an agent in play without a legal action. 0 "
    "is none. Reported by `make_train` alone; runs name the field.",
}
"""Metric name -> one sentence with its unit. Per-agent metrics are reported as ``name/agent_0`` and
so on."""


_AXES = ("agent", "cost")
"""Names of the axes of metrics, in order."""


def base_name(name: str) -> str:
    """Returns the name as it stands in ``METRICS``.

    Args:
        name: Metric's name; ``seed_0/`` may stand in front, ``/agent_0``, ``/cost_1`` behind.

    Returns:
        The name without these parts.
    """
    return re.sub(r"^seed_\d+/|(/(agent|cost)_\d+)+$", "", name)


def describe(name: str) -> str:
    """Returns the sentence of a metric, with the agent or cost that it belongs to, if any.

    Args:
        name: Metric's name; ``seed_0/`` may stand in front, ``/agent_0``, ``/cost_1`` behind.

    Returns:
        The sentence of ``METRICS``, followed by ``(agent 0)``, ``(cost 1)`` where the name has
        them.

    Raises:
        KeyError: There is no such metric; the message names it.

    Example:
        >>> describe("entropy")
        'Mean entropy of the policy per agent and step, in nats.'
        >>> describe("seed_3/entropy/agent_1")
        'Mean entropy of the policy per agent and step, in nats. (agent 1)'
    """
    base = base_name(name)
    if base not in METRICS:
        raise KeyError(
            f"no metric called {base!r}; jaxmarl_lite.report.metrics.METRICS lists them all"
        )
    suffixes = re.findall(r"/(agent|cost)_(\d+)", name)
    return METRICS[base] + "".join(f" ({kind} {index})" for kind, index in suffixes)


def flatten(metrics: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Returns plain floats from a dictionary of numbers and small arrays.

    Args:
        metrics: Name -> a scalar, ``[N]`` (becomes ``name/agent_0`` ...) or ``[N, K]``
            (``name/agent_0/cost_0`` ...).

    Returns:
        Name with the axes' indices -> a float.

    Raises:
        ValueError: An array has more axes than there are names; the message names the metric.
    """
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        array = np.asarray(value)
        if array.ndim > len(_AXES):
            raise ValueError(
                f"metric {name!r} has shape {array.shape}; allowed are at most the axes {_AXES}"
            )
        for index in np.ndindex(array.shape):
            flat[_entry(name, index)] = float(array[index])
    return flat


def latest(
    rows: Iterable[Mapping[str, Any]], seeds: Sequence[int], name: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Returns a metric from the latest row of every seed.

    Args:
        rows: Rows of a run, flat as `flatten` makes them, each with ``update`` and ``seed``.
        seeds: Seeds of the run.
        name: Name of the metric.
        shape: ``()``, ``(N,)`` or ``(N, K)``.

    Returns:
        ``[seeds, *shape]`` float; 0 where the row or an entry of it is missing.
    """
    row_of = {row["seed"]: row for row in sorted(rows, key=lambda row: row["update"])}
    values = np.zeros((len(seeds), *shape))
    for i, *index in np.ndindex(values.shape):
        values[i, *index] = row_of.get(seeds[i], {}).get(_entry(name, index), 0.0)
    return values


def _entry(name: str, index: Sequence[int]) -> str:
    """Returns the name of one entry of a metric."""
    return name + "".join(f"/{axis}_{i}" for axis, i in zip(_AXES, index, strict=False))
