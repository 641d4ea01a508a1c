"""Tables of agents' costs against their limits, at the end of a run and of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table
from rich.text import Text

from jaxmarl_lite.report import statistics, tables
from jaxmarl_lite.report.agents import MAX_AGENT_LINES, worst_agent
from jaxmarl_lite.report.statistics import Interval
from jaxmarl_lite.report.text import literal


def cost_label(cost: int, names: Sequence[str]) -> str:
    """Returns the cost's own name, or ``cost 0`` ... where it has none.

    Args:
        cost: Number of the cost, from 0.
        names: Names of the costs, in order; may be shorter than the costs.

    Returns:
        The label.
    """
    return names[cost] if cost < len(names) else f"cost {cost}"


def format_limit(values: ArrayLike) -> str:
    """Formats the limits of agents: one number where they agree, all of them where they do not.

    Args:
        values: Limits ``[N]``, in cost per episode; inf reads "none".

    Returns:
        The text.
    """
    texts = [
        "none" if np.isinf(value) else f"{value:g}"
        for value in np.asarray(values, np.float64).round(6)
    ]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def run_table(
    costs: ArrayLike,
    limits: ArrayLike,
    satisfaction: ArrayLike,
    violations: ArrayLike,
    updates: float,
    names: Sequence[str] = (),
) -> Table:
    """Builds the table of costs at the end of a run: a line per cost and agent.

    With more than `MAX_AGENT_LINES` agents of one limit, a cost has two lines: the mean over its
    agents, and the worst of them. A cost is red where its interval reaches over the limit.

    Args:
        costs: Costs of the last evaluation, in cost per episode, ``[seeds, N, K]``; NaN for a
            diverged seed.
        limits: Limits ``[N, K]``, in cost per episode, inf where there is none.
        satisfaction: Probability of keeping the limit, ``[N, K]``, 0 to 1.
        violations: Number of updates that broke the limit, mean over seeds, ``[N, K]``.
        updates: Number of updates with ended episodes, mean over seeds; NaN where none was counted.
        names: Name of each cost.

    Returns:
        A rich table.
    """
    costs, limits, satisfaction, violations = (
        np.asarray(x, float) for x in (costs, limits, satisfaction, violations)
    )
    table = tables.new_table()
    table.add_column("cost per episode")
    violations_head = (
        "updates over it" if np.isnan(updates) else f"of {updates:,.0f} measured updates over it"
    )
    for head in ("limit", "mean [95 % interval]", "P(kept)", violations_head):
        table.add_column(head, justify="right")
    for k in range(limits.shape[1]):
        for label, values, agents in _agent_lines(costs[..., k], limits[:, k]):
            interval = statistics.bootstrap_interval(values, statistics.mean)
            limit = limits[agents, k]
            table.add_row(
                literal(f"{cost_label(k, names)}, {label}"),
                format_limit(limit),
                _interval_text(interval, float(limit[0])),
                _format_mean(satisfaction[agents, k].mean(), 3),
                _format_mean(violations[agents, k].mean(), 1),
            )
    return table


def evaluation_tables(
    costs: Mapping[int, ArrayLike], limits: ArrayLike, names: Sequence[str] = (), title: str = ""
) -> list[Table]:
    """Builds the tables of costs of freshly played episodes.

    The first is over all seeds' episodes together. It has the mean cost with its bootstrap interval
    over episodes, the limit, and the probability of keeping it with Wilson's interval; both
    intervals are about these policies, not about seeds that were not trained. With several seeds, a
    second, compact table has a line per seed.

    Args:
        costs: Seed -> cost of each episode, ``[episodes, N, K]``; a diverged seed's may be NaN.
        limits: Limits ``[N, K]``, in cost per episode, inf where there is none.
        names: Name of each cost.
        title: Title of the first table.

    Returns:
        One or two rich tables.
    """
    limits = np.asarray(limits)
    played = {seed: np.asarray(values) for seed, values in costs.items()}
    sound = [values for values in played.values() if np.isfinite(values).all()]
    table = tables.new_table(title or None)
    table.add_column("cost per episode")
    for head in ("limit", "mean [95 % interval]", "P(kept) [95 % interval]"):
        table.add_column(head, justify="right")
    result_tables = [table]
    if sound:
        _fill_pooled(table, np.concatenate(sound), limits, names)
    if len(played) > 1:
        result_tables.append(_by_seed(played, limits, names))
    return result_tables


def _fill_pooled(
    table: Table, pooled: np.ndarray, limits: np.ndarray, names: Sequence[str]
) -> None:
    """Adds a line per cost and agent of episodes ``[episodes, N, K]``."""
    for k in range(limits.shape[1]):
        for i in range(limits.shape[0]):
            interval = statistics.bootstrap_interval(pooled[:, i, k], statistics.mean)
            probability = "-"
            if np.isfinite(limits[i, k]):
                among = statistics.proportion_interval(
                    np.sum(pooled[:, i, k] <= limits[i, k]), len(pooled)
                )
                probability = f"{among.estimate:.3f} [{among.low:.3f}, {among.high:.3f}]"
            mean = _interval_text(interval, float(limits[i, k]))
            name = literal(f"{cost_label(k, names)}, agent {i}")
            table.add_row(name, format_limit(limits[i : i + 1, k]), mean, probability)


def _by_seed(played: Mapping[int, np.ndarray], limits: np.ndarray, names: Sequence[str]) -> Table:
    """Builds the table of every seed's worst agent, cost by cost."""
    table = tables.new_table("worst agent of each seed: mean cost, P(kept)")
    table.add_column("")
    for k in range(limits.shape[1]):
        table.add_column(literal(cost_label(k, names)), justify="right")
    for seed, values in played.items():
        cells = []
        for k in range(limits.shape[1]):
            mean = values[..., k].mean(0)
            i = worst_agent(mean, limits[:, k])
            share = np.mean(values[:, i, k] <= limits[i, k])
            probability = f", {share:.3f}" if np.isfinite(limits[i, k]) else ""
            text = f"{tables.format_number(float(mean[i]))} (agent {i}){probability}"
            cells.append(
                Text(text, "red" if mean[i] > limits[i, k] else "")
                if np.isfinite(mean).all()
                else "left out"
            )
        table.add_row(f"seed {seed}", *cells)
    return table


def _agent_lines(costs: np.ndarray, limits: np.ndarray) -> list[tuple[str, np.ndarray, list[int]]]:
    """Splits the costs ``[seeds, N]`` and limits ``[N]`` of one cost into the lines of a table.

    Returns:
        Label, cost of every seed, and agents, of each line.
    """
    agents = list(range(limits.size))
    if limits.size <= MAX_AGENT_LINES or np.unique(limits).size > 1:
        return [(f"agent {i}", costs[:, i], [i]) for i in agents]
    worst = worst_agent(statistics.mean(costs, axis=0), limits)
    return [
        (f"mean of {limits.size} agents", costs.mean(1), agents),
        (f"worst agent ({worst})", costs[:, worst], [worst]),
    ]


def _interval_text(interval: Interval, limit: float) -> Text:
    """Formats an interval, red where it reaches over the limit; of one value just that."""
    numbers = [float(interval.estimate), float(interval.low), float(interval.high)]
    centre, low, high = (tables.format_number(value, numbers) for value in numbers)
    return Text(
        centre if interval.degenerate else f"{centre} [{low}, {high}]",
        "red" if interval.high > limit else "",
    )


def _format_mean(value: float, decimals: int) -> str:
    """Formats a number; NaN reads "-"."""
    return "-" if np.isnan(value) else f"{value:.{decimals}f}"
