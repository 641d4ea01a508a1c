"""Statistics of costs in a run: the limits that apply, and how often episodes stay within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.types import Array, EnvSpec, PyTree


def limits_of(config: object, spec: EnvSpec) -> np.ndarray:
    """Returns the limit of every agent and cost.

    The config's ``cost_limit``, if it has one, takes precedence over the environment's own limits.

    Args:
        config: config of an algorithm, or None for the environment's own limits.
        spec: spec of the environment.

    Returns:
        ``[N, K]``, in cost per episode; inf where there is no limit.
    """
    if not spec.num_costs:
        return np.zeros((spec.num_agents, 0), jnp.result_type(float))
    limits = getattr(config, "cost_limit", None)
    return np.asarray(
        cost_limits.as_array(
            limits if isinstance(limits, cost_limits.CostLimits) else cost_limits.CostLimits(), spec
        )
    )


def learned_leaves(learner: PyTree) -> list[Array]:
    """Returns the leaves of a learner's state except the limits in its config.

    Limits may be infinite while everything that was learned is finite.

    Args:
        learner: the learner's state.
    """

    def is_limits(x: object) -> bool:
        return isinstance(x, cost_limits.CostLimits)

    return [x for x in jax.tree.leaves(learner, is_leaf=is_limits) if not is_limits(x)]


def exceeds_limit(cost: Array, limit: Array) -> Array:
    """Computes where mean costs exceed their limits.

    Args:
        cost: mean costs per episode, ``[N, K]``; NaN where no episode ended.
        limit: limits, ``[N, K]``.

    Returns:
        ``[N, K]``: 1 where the cost is above its limit, else 0; NaN where no episode ended.
    """
    return jnp.where(jnp.isnan(cost), jnp.nan, (cost > limit).astype(float))


def satisfaction_rate(costs: ArrayLike, limit: np.ndarray) -> np.ndarray:
    """Computes the share of episodes whose cost is at most the limit.

    Args:
        costs: cost of each episode, ``[..., episodes, N, K]``.
        limit: limits, ``[N, K]``; inf where there is none.

    Returns:
        ``[..., N, K]``, 0 to 1; NaN where there is no limit.
    """
    return mask_unlimited(np.mean(np.asarray(costs) <= limit, axis=-3), limit)


def mask_unlimited(values: ArrayLike, limit: np.ndarray) -> np.ndarray:
    """Returns values with NaN wherever there is no limit.

    Args:
        values: ``[..., N, K]``.
        limit: limits, ``[N, K]``; inf where there is none.

    Returns:
        ``[..., N, K]`` float.
    """
    return np.where(np.isfinite(limit), np.asarray(values, float), np.nan)


def updates_with_cost(rows: Sequence[Mapping[str, Any]], seeds: tuple[int, ...]) -> np.ndarray:
    """Returns the number of updates in which episodes ended, from the latest row of every seed.

    Args:
        rows: rows of a run, each with ``update`` and ``seed``.
        seeds: seeds of the run.

    Returns:
        ``[seeds]`` float; 0 for a seed without a row.
    """
    latest = {row["seed"]: row for row in sorted(rows, key=lambda row: row["update"])}
    return np.asarray([latest.get(seed, {}).get("updates_with_cost", 0.0) for seed in seeds], float)


def violations(
    rows: Sequence[Mapping[str, Any]], seeds: tuple[int, ...], limit: np.ndarray
) -> np.ndarray:
    """Returns the number of updates that broke each limit, from the latest row of every seed.

    Args:
        rows: rows of a run, each with ``update`` and ``seed``.
        seeds: seeds of the run.
        limit: limits, ``[N, K]``; inf where there is none.

    Returns:
        ``[seeds, N, K]`` float; 0 for a seed without a row.
    """
    counts = np.zeros((len(seeds), *limit.shape))
    for row in sorted(rows, key=lambda row: row["update"]):
        for agent, cost in np.argwhere(np.isfinite(limit)):
            count = row.get(f"num_violations/agent_{agent}/cost_{cost}")
            if count is not None and row["seed"] in seeds:
                counts[seeds.index(row["seed"]), agent, cost] = count
    return counts
