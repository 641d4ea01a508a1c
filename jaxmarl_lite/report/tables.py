"""Results as rich tables: plain data in, something rich can print out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from jaxmarl_lite.report.statistics import Interval, bootstrap_interval
from jaxmarl_lite.report.text import literal


def new_table(title: str | None = None) -> Table:
    """An empty table; its title is shown as it stands."""
    text = None if title is None else literal(title, "table.title")
    return Table(title=text, box=box.SIMPLE_HEAD, title_justify="left")


def format_number(value: float, like: Sequence[float] = ()) -> str:
    """A number with as many decimals as its size (or the largest of ``like``) deserves; ``nan``
    reads "left out".
    """
    if np.isnan(value):
        return "left out"
    sizes = [abs(entry) for entry in (value, *like) if np.isfinite(entry)]
    size = max(sizes, default=0.0)
    decimals = 4 if 0 < size < 0.1 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{decimals}f}"


def format_interval(interval: Interval) -> str:
    """``0.97 [0.94, 0.99]``, saying so where there was one seed only, or where seeds were left
    out.
    """
    numbers = [float(interval.estimate), float(interval.low), float(interval.high)]
    centre, low, high = (format_number(value, numbers) for value in numbers)
    count = int(np.min(interval.count))
    if count == 0:
        return "no seed is left"
    text = f"{centre} (one seed: no interval)" if count == 1 else f"{centre} [{low}, {high}]"
    return (
        text
        if count == interval.seeds
        else f"{text} ({count} of {interval.seeds} seeds; the rest were left out)"
    )


def result_table(
    returns: Mapping[int, float],
    *,
    random: float | None = None,
    best: float | None = None,
    meaning: str = "return",
    title: str | None = None,
    extra: Mapping[str, Mapping[int, float]] | None = None,
) -> Table:
    """The end of a run: a line per seed, then the IQM with its 95 % interval, the random policy,
    the best possible.

    Args:
        returns: seed -> final return; NaN for a diverged seed.
        random: return of the random policy, if measured.
        best: the highest return there is, if known.
        meaning: what the return is, in words; heads its column.
        extra: further columns: name -> seed -> number.
    """
    table = new_table(title)
    table.add_column("")
    table.add_column(literal(meaning), justify="right")
    others = dict(extra or {})
    for name in others:
        table.add_column(literal(name), justify="right")
    values = list(returns.values())
    for seed, value in returns.items():
        more = [format_number(column[seed]) if seed in column else "" for column in others.values()]
        style = "red" if np.isnan(value) else None
        table.add_row(f"seed {seed}", format_number(value, values), *more, style=style)
    table.add_section()
    if values:
        table.add_row(
            Text("IQM [95 % interval]", "bold"),
            Text(format_interval(bootstrap_interval(values)), "bold"),
        )
    if random is not None:
        table.add_row("random policy", format_number(random, values), style="dim")
    if best is not None:
        table.add_row("best possible", format_number(best, values), style="dim")
    return table


def summary_table(
    results: Mapping[str, Interval],
    *,
    random: float | None = None,
    best: float | None = None,
    meaning: str = "return",
    title: str | None = None,
) -> Table:
    """Several runs side by side: a line per label with its IQM and interval, then the random policy
    and the best.
    """
    table = new_table(title)
    table.add_column("")
    table.add_column(literal(f"{meaning}: IQM [95 % interval]"), justify="right")
    table.add_column("seeds", justify="right")
    for label, interval in results.items():
        table.add_row(literal(label), format_interval(interval), str(interval.seeds))
    table.add_section()
    for label, value in (("random policy", random), ("best possible", best)):
        if value is not None:
            table.add_row(label, format_number(value), "", style="dim")
    return table


def list_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None
) -> Table:
    """A plain list for the command line: numbers to the right, the first column in bold.

    Raises:
        ValueError: a row whose length is not that of ``columns``.
    """
    table = new_table(title)
    for i, name in enumerate(columns):
        numbers = bool(rows) and all(
            isinstance(row[i], (int, float)) for row in rows if len(row) > i
        )
        table.add_column(
            literal(name),
            justify="right" if numbers else "left",
            style="bold" if i == 0 else None,
            overflow="fold",
        )
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"expected {len(columns)} entries ({', '.join(columns)}), got {len(row)}: {row!r}"
            )
        table.add_row(*("" if entry is None else literal(entry) for entry in row))
    return table
