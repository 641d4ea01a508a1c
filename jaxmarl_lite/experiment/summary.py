"""The result of a run as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from jaxmarl_lite.report import cost_tables, run_dir, statistics, tables
from jaxmarl_lite.report.text import literal

if TYPE_CHECKING:
    from jaxmarl_lite.experiment.result import Result


def table(result: Result) -> Table:
    """Returns a table of a run's last evaluation.

    It holds the return of every seed, the IQM and the random policy with their intervals, the win
    rate and the costs where there are any, and the durations of the run.

    Args:
        result: result of a run.
    """
    won, spec, final = result.win_rates, result.spec, result.returns[:, -1].tolist()
    overview = tables.result_table(
        dict(zip(result.seeds, final, strict=True)),
        meaning=spec.return_description,
        title=f"{result.algorithm} on {result.plan.env}, {int(result.steps[-1]):,} steps a seed",
        extra=None
        if won is None
        else {"win rate": dict(zip(result.seeds, won[:, -1].tolist(), strict=True))},
    )
    if won is not None:
        overview.add_row(
            "win rate, IQM [95 %]",
            tables.format_interval(result.final_win_rate()),
            "",
            style="bold",
        )
    if result.random_returns is not None:
        interval = statistics.bootstrap_interval(result.random_returns)
        overview.add_row("random policy", tables.format_interval(interval), style="dim")
    if spec.max_return is not None:
        overview.add_row("best possible", tables.format_number(spec.max_return, final), style="dim")
    overview.add_section()
    for name, text in _facts(result):
        overview.add_row(name, literal(text), style="dim")
    return overview if result.costs is None else _stack(overview, _costs(result, result.costs))


def _costs(result: Result, costs: np.ndarray) -> Table:
    """Returns a table of the last evaluation's costs with their limits."""
    return cost_tables.run_table(
        costs[:, -1],
        result.limits,
        result.satisfaction_rate(),
        result.num_violations(),
        result.updates_with_cost(),
        result.spec.cost_names,
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    """Returns labels and texts: speed, durations, and the file of the learning curve."""
    timings = result.timings
    facts = [
        (
            "steps per second",
            "-" if np.isnan(timings.steps_per_second) else f"{timings.steps_per_second:,.0f}",
        ),
        ("minutes", f"{timings.elapsed_seconds / 60:.1f}"),
        ("compiling, seconds", f"{timings.compile_seconds:.1f}"),
    ]
    if result.path is not None:
        facts.append(("curve", str(run_dir.RunFolder(result.path).curve)))
    return facts


def _stack(*parts: Table) -> Table:
    """Returns tables one below the other, as one table, which a notebook can show."""
    grid = Table.grid()
    for part in parts:
        grid.add_row(part)
    return grid
