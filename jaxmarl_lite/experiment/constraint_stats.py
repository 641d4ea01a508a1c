"""Costs in a run: which limits it is measured against, and how often they are kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.types import Array, EnvSpec, PyTree


def limits_of(config: Any, spec: EnvSpec) -> np.ndarray:
    """The limit of every agent and cost, ``[N, K]``, in cost per episode; inf where there is none.

    The config's ``cost_limit``, if it has one, goes over the environment's own limits.
    """
    if not spec.num_costs:
        return np.zeros((spec.num_agents, 0), jnp.result_type(float))
    given = getattr(config, "cost_limit", None)
    return np.asarray(
        cost_limits.as_array(
            given if isinstance(given, cost_limits.CostLimits) else cost_limits.CostLimits(), spec
        )
    )


def learned_leaves(learner: PyTree) -> list[Array]:
    """The leaves of a learner but the limits in its config, which may be infinite while all it
    learned is finite.
    """

    def given(x: Any) -> bool:
        return isinstance(x, cost_limits.CostLimits)

    return [x for x in jax.tree.leaves(learner, is_leaf=given) if not given(x)]


def exceeds_limit(cost: Array, limit: Array) -> Array:
    """1 where a mean cost ``[N, K]`` is over its limit, else 0; NaN where no episode ended."""
    return jnp.where(jnp.isnan(cost), jnp.nan, (cost > limit).astype(float))


def satisfaction_rate(costs: Any, limit: np.ndarray) -> np.ndarray:
    """Share of episodes whose cost is at or under the limit.

    Args:
        costs: of each episode, ``[..., episodes, N, K]``.
        limit: ``[N, K]``.

    Returns:
        ``[..., N, K]``, 0 to 1; NaN where there is no limit.
    """
    return mask_unlimited(np.mean(np.asarray(costs) <= limit, axis=-3), limit)


def mask_unlimited(values: Any, limit: np.ndarray) -> np.ndarray:
    """``values [..., N, K]`` as floats, NaN where there is no limit."""
    return np.where(np.isfinite(limit), np.asarray(values, float), np.nan)


def updates_with_cost(rows: list[dict[str, Any]], seeds: tuple[int, ...]) -> np.ndarray:
    """How many updates had ended episodes, as the latest row of every seed has it: ``[seeds]``, 0
    without a row.
    """
    latest = {row["seed"]: row for row in sorted(rows, key=lambda row: row["update"])}
    return np.asarray([latest.get(seed, {}).get("updates_with_cost", 0.0) for seed in seeds], float)


def violations(rows: list[dict[str, Any]], seeds: tuple[int, ...], limit: np.ndarray) -> np.ndarray:
    """How many updates broke each limit, as the latest row of every seed has it: ``[seeds, N, K]``,
    0 without a row.
    """
    found = np.zeros((len(seeds), *limit.shape))
    for row in sorted(rows, key=lambda row: row["update"]):
        for agent, cost in np.argwhere(np.isfinite(limit)):
            count = row.get(f"violations/agent_{agent}/cost_{cost}")
            if count is not None and row["seed"] in seeds:
                found[seeds.index(row["seed"]), agent, cost] = count
    return found
