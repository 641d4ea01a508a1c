"""Results as rich tables, built from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from jaxmarl_lite.report.statistics import Interval, bootstrap_interval
from jaxmarl_lite.report.text import literal


def new_table(title: str | None = None) -> Table:
    """Returns an empty table.

    Args:
        title: Title, shown as it stands; None for none.

    Returns:
        A rich table without columns.
    """
    text = None if title is None else literal(title, "table.title")
    return Table(title=text, box=box.SIMPLE_HEAD, title_justify="left")


def format_number(value: float, others: Sequence[float] = ()) -> str:
    """Formats a number with the decimals that its size deserves; NaN reads "left out".

    Args:
        value: Number to format.
        others: Numbers shown beside it; the largest size among all of them sets the decimals.

    Returns:
        The number with thousands separators.
    """
    if np.isnan(value):
        return "left out"
    sizes = [abs(entry) for entry in (value, *others) if np.isfinite(entry)]
    size = max(sizes, default=0.0)
    decimals = 4 if 0 < size < 0.1 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{decimals}f}"


def format_interval(interval: Interval) -> str:
    """Formats an interval as ``0.97 [0.94, 0.99]``.

    The text says so where there was one seed only, or where seeds were left out.

    Args:
        interval: Interval of one statistic.

    Returns:
        The text.
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
    """Builds the table of a run's end.

    It has a line per seed, then the IQM with its 95 % interval, the random policy and the best
    possible return.

    Args:
        returns: Seed -> final return; NaN for a diverged seed.
        random: Return of the random policy, if measured.
        best: Highest possible return, if known.
        meaning: Meaning of the return, in words; heads its column.
        title: Title of the table.
        extra: Further columns: name -> seed -> number.

    Returns:
        A rich table.
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
    """Builds the table of several runs side by side.

    It has a line per label with its IQM and interval, then the random policy and the best possible
    return.

    Args:
        results: Label -> IQM with its interval.
        random: Return of the random policy, if measured.
        best: Highest possible return, if known.
        meaning: Meaning of the return, in words; heads its column.
        title: Title of the table.

    Returns:
        A rich table.
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
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None
) -> Table:
    """Builds a plain list for the command line: numbers to the right, the first column in bold.

    Args:
        columns: Heads of the columns.
        rows: Rows with an entry per column; None leaves a cell empty.
        title: Title of the table.

    Returns:
        A rich table.

    Raises:
        ValueError: The length of a row is not that of ``columns``.
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
