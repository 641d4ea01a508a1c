"""Which agents a picture or a table of costs shows."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_AGENT_LINES = 6
"""More agents than these are shown as their mean and their worst or range."""


def worst_agent(costs: Any, limits: Any) -> int:
    """The agent farthest over its limit, of costs and limits ``[N]``; the costliest where none has
    a limit. Agents whose cost is NaN, and agents without a limit beside others that have one, come
    last.
    """
    costs, limits = np.asarray(costs, float), np.asarray(limits, float)
    over = costs - limits if np.isfinite(limits).any() else costs
    return int(np.argmax(np.where(np.isnan(over), -np.inf, over)))
