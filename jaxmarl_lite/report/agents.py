"""Choice of the agents that a plot or a table of costs shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

MAX_AGENT_LINES = 6
"""With more agents, plots and tables show their mean and their worst agent or range instead."""


def worst_agent(costs: ArrayLike, limits: ArrayLike) -> int:
    """Returns the agent farthest over its limit, or the costliest where none has a limit.

    Agents whose cost is NaN, and agents without a limit beside others that have one, come last.

    Args:
        costs: Cost of each agent, ``[N]``.
        limits: Limit of each agent, ``[N]``, inf where there is none.

    Returns:
        The agent's number, from 0.
    """
    costs, limits = np.asarray(costs, float), np.asarray(limits, float)
    excess = costs - limits if np.isfinite(limits).any() else costs
    return int(np.argmax(np.where(np.isnan(excess), -np.inf, excess)))
